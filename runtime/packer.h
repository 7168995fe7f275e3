// From what sequences have to read to the batches that are computed.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "kernels/backend.h"

namespace nibble {

/// Tokens to be read into one sequence behind those it holds.
struct Feed {
  int sequence;
  std::span<const int> tokens;
};

/// Packs feeds into steps of at most `most_rows` tokens, in order. Only a feed that is longer than a step is cut, at
/// whole steps, so that how a sequence is cut depends on nothing but its own length.
class Packer {
 public:
  explicit Packer(int most_rows) : most_rows_(static_cast<std::size_t>(most_rows)) {}

  /// `feeds` must stay until they are done.
  void start(std::span<const Feed> feeds) { feeds_ = feeds, feed_ = offset_ = 0; }
  bool done() const { return feed_ == feeds_.size(); }

  /// The next step, given what each sequence already holds; valid until the one after. The last token of each feed is
  /// an output.
  Batch next(std::span<const std::vector<int>> held) {
    tokens_.clear();
    positions_.clear();
    segments_.clear();
    outputs_.clear();
    while (!done()) {
      const Feed& feed = feeds_[feed_];
      const std::span<const int> part =
          feed.tokens.subspan(offset_, std::min(most_rows_, feed.tokens.size() - offset_));
      if (tokens_.size() + part.size() > most_rows_) break;
      const auto past = static_cast<int>(held[static_cast<std::size_t>(feed.sequence)].size());
      segments_.push_back({feed.sequence, static_cast<int>(tokens_.size()), static_cast<int>(part.size()), past});
      for (std::size_t i = 0; i < part.size(); ++i) positions_.push_back(past + static_cast<int>(i));
      tokens_.insert(tokens_.end(), part.begin(), part.end());
      offset_ += part.size();
      if (offset_ < feed.tokens.size()) break;
      outputs_.push_back(static_cast<int>(tokens_.size()) - 1);
      ++feed_;
      offset_ = 0;
    }
    return {tokens_, positions_, segments_, outputs_};
  }

 private:
  std::size_t most_rows_;
  std::span<const Feed> feeds_;
  std::size_t feed_ = 0, offset_ = 0;
  std::vector<int> tokens_, positions_, outputs_;
  std::vector<Segment> segments_;
};

}  // namespace nibble
