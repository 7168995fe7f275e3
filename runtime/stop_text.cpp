#include "runtime/stop_text.h"

#include <algorithm>
#include <utility>

namespace nibble {
namespace {

/// Length of the longest end of `text` that begins `stop`.
std::size_t overlap(std::string_view text, std::string_view stop) {
  for (std::size_t length = std::min(text.size(), stop.size() - 1); length > 0; --length) {
    if (text.ends_with(stop.substr(0, length))) return length;
  }
  return 0;
}

}  // namespace

std::string StopText::push(std::string_view text) {
  held_ += text;
  std::size_t first = std::string::npos;
  std::size_t undecided = 0;
  for (const std::string& stop : stops_) {
    first = std::min(first, held_.find(stop));
    undecided = std::max(undecided, overlap(held_, stop));
  }
  if (first != std::string::npos) {
    stopped_ = true;
    std::string before = held_.substr(0, first);
    held_.clear();
    return before;
  }
  std::string safe = held_.substr(0, held_.size() - undecided);
  held_.erase(0, safe.size());
  return safe;
}

std::string StopText::finish() { return std::exchange(held_, {}); }

}  // namespace nibble
