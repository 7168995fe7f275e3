// How things look in a terminal: sizes, tables, bars, progress. Text goes out through print(), so that a full disk or a
// closed pipe is an error with a sentence.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::cli {

/// Writes to standard output at once. Throws Error{kIo}.
void print(std::string_view text);
/// Writes to standard error, where nobody waits for it.
void note(std::string_view text);

/// Megabytes (10^6 bytes) with one decimal, without the unit: "226.8".
std::string megabytes(std::uint64_t bytes);
/// "[1024, 512]"
std::string shape_text(const std::vector<std::int64_t>& shape);
/// "2,17,9", as --tokens takes it
std::string list_text(const std::vector<int>& values);

/// Whether the locale's characters are UTF-8, as main() has set it.
bool unicode();
/// `fraction` of `width` columns filled, in eighths of a column where the locale has them.
std::string bar(double fraction, int width);

/// Columns as wide as their widest cell; the first to the left, the others to the right.
class Table {
 public:
  explicit Table(std::vector<std::string> header) : rows_{std::move(header)} {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string text() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

enum class ProgressStyle {
  kNone,
  kLines,  ///< a line each tenth, for logs
  kBar,    ///< redrawn in place and wiped away at the end
};
/// kBar where standard error is a terminal, else `otherwise`.
ProgressStyle progress_style(ProgressStyle otherwise);

/// Shows on standard error how far work has come.
class ProgressDisplay {
 public:
  ProgressDisplay(std::string label, ProgressStyle style) : label_(std::move(label)), style_(style) {}
  ~ProgressDisplay();
  ProgressDisplay(const ProgressDisplay&) = delete;
  ProgressDisplay& operator=(const ProgressDisplay&) = delete;

  /// `detail` stands behind the percentage.
  void update(std::uint64_t done, std::uint64_t total, std::string_view detail = "");

 private:
  std::string label_;
  ProgressStyle style_;
  int percent_ = -1;  ///< last shown
};

}  // namespace nibble::cli
