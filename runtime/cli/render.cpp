#include "runtime/cli/render.h"

#include <langinfo.h>
#include <spdlog/fmt/fmt.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "nibble/error.h"

namespace nibble::cli {
namespace {

/// Columns a text takes: characters, for the single-width ones used here.
std::size_t width(std::string_view text) {
  return static_cast<std::size_t>(std::ranges::count_if(text, [](char c) { return (c & 0xc0) != 0x80; }));
}

}  // namespace

void print(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    throw Error(ErrorKind::kIo, fmt::format("standard output: cannot be written: {}", std::strerror(errno)));
  }
}

void note(std::string_view text) { std::fwrite(text.data(), 1, text.size(), stderr); }

std::string megabytes(std::uint64_t bytes) { return fmt::format("{:.1f}", static_cast<double>(bytes) / 1e6); }

std::string shape_text(const std::vector<std::int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

std::string list_text(const std::vector<int>& values) { return fmt::format("{}", fmt::join(values, ",")); }

bool unicode() { return std::strcmp(nl_langinfo(CODESET), "UTF-8") == 0; }

std::string bar(double fraction, int width) {
  if (!unicode()) return std::string(static_cast<std::size_t>(std::lround(fraction * width)), '#');
  constexpr std::array<const char*, 8> kEighths{"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  const auto eighths = static_cast<std::size_t>(std::lround(fraction * width * 8));
  std::string text;
  for (std::size_t i = 0; i < eighths / 8; ++i) text += "█";
  return text + kEighths[eighths % 8];
}

std::string Table::text() const {
  std::vector<std::size_t> widths;
  for (const auto& row : rows_) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width(row[i]));
  }
  std::string text;
  for (const auto& row : rows_) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string padding(widths[i] - width(row[i]), ' ');
      line += i == 0 ? row[i] + padding : "  " + padding + row[i];
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + '\n';
  }
  return text;
}

ProgressStyle progress_style(ProgressStyle otherwise) {
  return isatty(STDERR_FILENO) == 1 ? ProgressStyle::kBar : otherwise;
}

void ProgressDisplay::update(std::uint64_t done, std::uint64_t total, std::string_view detail) {
  if (style_ == ProgressStyle::kNone || total == 0) return;
  const int step = style_ == ProgressStyle::kBar ? 1 : 10;
  const double fraction = static_cast<double>(done) / static_cast<double>(total);
  const int percent = static_cast<int>(fraction * 100) / step * step;
  if (percent == percent_) return;
  percent_ = percent;
  if (style_ == ProgressStyle::kLines) {
    note(fmt::format("{} {}%{}{}\n", label_, percent, detail.empty() ? "" : " ", detail));
    return;
  }
  constexpr int kWidth = 30;
  const std::string filled = bar(fraction, kWidth);
  note(fmt::format("\r{} {}{:{}} {:3}% {}\033[K", label_, filled, "", kWidth - static_cast<int>(width(filled)), percent,
                   detail));
}

ProgressDisplay::~ProgressDisplay() {
  if (style_ == ProgressStyle::kBar && percent_ >= 0) note("\r\033[K");
}

}  // namespace nibble::cli
