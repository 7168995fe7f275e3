#include "runtime/cli/tensor_report.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "runtime/cli/render.h"

namespace nibble::cli {
namespace {

/// Rows of the histogram; the 255 levels of int8 share them, 15 a row.
constexpr std::size_t kMostRows = 17;

/// The first bytes, and where two codes share one, which is in which half.
std::string bytes_text(const TensorReport& report) {
  std::string bytes = "first bytes ";
  std::string codes = "hold codes  ";
  for (std::size_t i = 0; i < report.first_bytes.size(); ++i) {
    bytes += fmt::format("  {:3} = 0x{:02x}", report.first_bytes[i], report.first_bytes[i]);
    if (2 * i + 1 < report.first_codes.size()) {
      codes += fmt::format("   {:2} | {:2}  ", report.first_codes[2 * i], report.first_codes[2 * i + 1]);
    }
  }
  if (report.first_bytes.empty()) return "";
  return report.stored_shape == report.shape ? bytes + "\n" : bytes + "\n" + codes + "  the first in the upper half\n";
}

std::string firsts_text(const TensorReport& report) {
  Table table({"first values", "before", "after", "code"});
  for (std::size_t i = 0; i < report.first_values.size(); ++i) {
    table.add({"", fmt::format("{:.8f}", report.first_values[i]), fmt::format("{:.8f}", report.first_decoded[i]),
               i < report.first_codes.size() ? std::to_string(report.first_codes[i]) : ""});
  }
  return table.text() + bytes_text(report);
}

std::string histogram_text(const TensorReport& report) {
  constexpr int kWidth = 40;
  const std::size_t levels = report.levels.size();
  const std::size_t group = (levels + kMostRows - 1) / kMostRows;
  std::vector<std::uint64_t> counts;
  for (std::size_t first = 0; first < levels; first += group) {
    const auto begin = report.histogram.begin() + static_cast<std::ptrdiff_t>(first);
    counts.push_back(
        std::accumulate(begin, begin + static_cast<std::ptrdiff_t>(std::min(group, levels - first)), std::uint64_t{0}));
  }
  const auto most = static_cast<double>(std::max<std::uint64_t>(1, *std::ranges::max_element(counts)));
  const auto total = static_cast<double>(std::accumulate(counts.begin(), counts.end(), std::uint64_t{0}));

  std::string text = fmt::format("weights at each level{}, a level times the absmax being the weight\n",
                                 group > 1 ? fmt::format(" ({} levels a row)", group) : "");
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const std::size_t last = std::min((i + 1) * group, levels) - 1;
    const std::string levels_text =
        group > 1 ? fmt::format("{:+.4f} to {:+.4f}", report.levels[i * group], report.levels[last])
                  : fmt::format("{:+.4f}", report.levels[i]);
    const auto count = static_cast<double>(counts[i]);
    text += fmt::format("{}  {:5.2f}% {}\n", levels_text, 100 * count / total, bar(count / most, kWidth));
  }
  return text;
}

}  // namespace

std::string text_of(const TensorReport& report) {
  std::string text = fmt::format("{}: {} stored as {}, {}", report.name, shape_text(report.shape),
                                 shape_text(report.stored_shape), to_string(report.scheme));
  if (report.blocksize > 0) text += fmt::format(" in blocks of {}", report.blocksize);
  text += "\n\n" + firsts_text(report);
  if (report.max_error > 0) {
    text += fmt::format("error         {:.8f} at most, {:.8f} RMS, signal to noise {:.2f} dB\n", report.max_error,
                        report.rms_error, report.snr_db);
  } else {
    text += "error         none: the values are as the checkpoint holds them\n";
  }
  if (!report.levels.empty()) text += "\n" + histogram_text(report);
  return text;
}

Json json_of(const TensorReport& report) {
  return {{"name", report.name},
          {"scheme", to_string(report.scheme)},
          {"blocksize", report.blocksize},
          {"shape", report.shape},
          {"stored_shape", report.stored_shape},
          {"first_values", report.first_values},
          {"first_codes", report.first_codes},
          {"first_bytes", report.first_bytes},
          {"first_decoded", report.first_decoded},
          {"max_error", report.max_error},
          {"rms_error", report.rms_error},
          {"snr_db", report.snr_db},
          {"levels", report.levels},
          {"histogram", report.histogram}};
}

}  // namespace nibble::cli
