// Watches a growing text for stop strings and lets out what can no longer be part of one.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace nibble {

class StopText {
 public:
  /// `stops` must outlive it; none of them is empty.
  explicit StopText(std::span<const std::string> stops) : stops_(stops) {}

  /// Adds text and returns what is safe to show. Once a stop string is complete, returns what came before it and
  /// `stopped` is true.
  std::string push(std::string_view text);
  /// What is still held back.
  std::string finish();
  bool stopped() const { return stopped_; }

 private:
  std::span<const std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace nibble
