// What a Session is made of: a backend, a cache, a workspace, and the tokens each sequence holds.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "kernels/kv_cache.h"
#include "nibble/session.h"
#include "runtime/engine_impl.h"
#include "runtime/loading.h"

namespace nibble {

struct Session::Impl {
  /// Tokens to be read into one sequence behind those it holds.
  struct Feed {
    int sequence;
    std::span<const int> tokens;
  };

  std::shared_ptr<const Engine::Impl> engine;
  SessionPlan plan;
  std::unique_ptr<Backend> backend;
  KvCache cache;
  Buffer workspace;
  std::vector<float> logits;           ///< [logit_rows, vocab_size]
  std::vector<std::vector<int>> held;  ///< a sequence's tokens in the cache
  GenerateStats stats;

  Impl(std::shared_ptr<const Engine::Impl> engine, const SessionOptions& options);

  /// Reads all feeds, in steps of at most plan.step_rows tokens. `on_hidden(hidden, batch)` sees each step's result.
  template <class F>
  void read(std::span<const Feed> feeds, F&& on_hidden);

  /// Reads the feeds and leaves the logits of the last token of feed i in row i of `logits`.
  void read_for_last_logits(std::span<const Feed> feeds);

  /// Forgets what sequence `sequence` holds beyond its common beginning with `tokens`, and beyond all but the last
  /// token, whose logits are wanted. Returns what is left to read.
  std::span<const int> keep_prefix(int sequence, std::span<const int> tokens);

  std::span<float> logits_row(int row) {
    const auto vocabulary = static_cast<std::size_t>(engine->info.vocab_size);
    return std::span(logits).subspan(static_cast<std::size_t>(row) * vocabulary, vocabulary);
  }

  void check_tokens(std::span<const int> tokens) const;
};

}  // namespace nibble
