#include "runtime/cli/flags.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <array>
#include <utility>

namespace nibble::cli {

std::string in_quotes(std::string_view text) {
  constexpr std::size_t kMost = 60;
  std::string shown = "'";
  for (const char c : text.substr(0, kMost)) {
    const auto byte = static_cast<unsigned char>(c);
    shown += byte < 0x20 || byte == 0x7f ? fmt::format("\\x{:02x}", byte) : std::string(1, c);
  }
  return shown + (text.size() > kMost ? "...'" : "'");
}

std::vector<int> FlagValue::list(std::string_view expected, int high) const {
  std::vector<int> values;
  std::string_view rest = text_;
  while (true) {
    const std::size_t comma = rest.find(',');
    const std::optional<int> value = parse<int>(rest.substr(0, comma));
    if (!value || *value < 0 || *value > high) fail(expected);
    values.push_back(*value);
    if (comma == std::string_view::npos) return values;
    rest.remove_prefix(comma + 1);
  }
}

std::uint64_t FlagValue::bytes() const {
  constexpr std::array<std::pair<std::string_view, std::uint64_t>, 8> kUnits{{{"", 1},
                                                                              {"B", 1},
                                                                              {"KB", 1'000},
                                                                              {"MB", 1'000'000},
                                                                              {"GB", 1'000'000'000},
                                                                              {"KiB", 1ULL << 10},
                                                                              {"MiB", 1ULL << 20},
                                                                              {"GiB", 1ULL << 30}}};
  constexpr std::string_view kExpected = "a size above 0 such as 500MB, 5GB or 4GiB";
  const std::size_t digits = std::min(text_.find_first_not_of("0123456789"), text_.size());
  const auto count = parse<std::uint64_t>(std::string_view(text_).substr(0, digits));
  const auto unit =
      std::ranges::find(kUnits, std::string_view(text_).substr(digits), &decltype(kUnits)::value_type::first);
  if (!count || *count == 0 || unit == kUnits.end()) fail(kExpected);
  if (*count > std::numeric_limits<std::uint64_t>::max() / unit->second) fail(kExpected);
  return *count * unit->second;
}

void FlagValue::fail(std::string_view expected) const {
  throw UsageError(fmt::format("{}: expected {}, found {}", flag_, expected, in_quotes(text_)));
}

CLI::Option* add_value(CLI::App& app, const std::string& names, const std::string& type,
                       std::function<void(const FlagValue&)> read, const std::string& help) {
  std::string flag = names;
  std::ranges::replace(flag, ',', '/');
  return app
      .add_option_function<std::string>(
          names, [flag, read = std::move(read)](const std::string& text) { read(FlagValue(flag, text)); }, help)
      ->type_name(type)
      ->take_last();
}

}  // namespace nibble::cli
