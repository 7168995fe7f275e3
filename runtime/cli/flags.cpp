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

std::vector<std::string_view> FlagValue::parts() const {
  std::vector<std::string_view> parts;
  std::string_view rest = text_;
  while (true) {
    const std::size_t comma = rest.find(',');
    parts.push_back(rest.substr(0, comma));
    if (comma == std::string_view::npos) return parts;
    rest.remove_prefix(comma + 1);
  }
}

std::vector<int> FlagValue::list(std::string_view expected, int high) const {
  std::vector<int> values;
  for (const std::string_view part : parts()) {
    const std::optional<int> value = parse<int>(part);
    if (!value || *value < 0 || *value > high) fail(expected);
    values.push_back(*value);
  }
  return values;
}

std::vector<int> FlagValue::ranges(std::string_view expected, int low, int high) const {
  constexpr std::size_t kMost = 1000;
  std::vector<int> values;
  for (const std::string_view part : parts()) {
    const std::size_t dash = std::min(part.find('-'), part.size());
    const std::size_t sign = std::min(part.find_first_of("+*", dash), part.size());
    const bool is_range = dash < part.size();
    const auto first = parse<int>(part.substr(0, dash));
    const auto last = is_range ? parse<int>(part.substr(dash + 1, sign - dash - 1)) : first;
    const auto step = sign < part.size() ? parse<int>(part.substr(sign + 1)) : 1;
    const bool multiplies = sign < part.size() && part[sign] == '*';
    if (!first || !last || !step || *first < low || *last > high || *first > *last) fail(expected);
    if (*step < 1 || (multiplies && (*step == 1 || *first == 0))) fail(expected);
    for (std::int64_t value = *first; value <= *last; value = multiplies ? value * *step : value + *step) {
      if (values.size() == kMost) fail(expected);
      values.push_back(static_cast<int>(value));
    }
  }
  return values;
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
