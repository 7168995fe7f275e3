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
#include "runtime/packer.h"

namespace nibble {

struct Session::Impl {
  std::shared_ptr<const Engine::Impl> engine;
  SessionPlan plan;
  std::unique_ptr<Backend> backend;
  KvCache cache;
  Buffer activations, results;  ///< what OptModel works in
  std::vector<float> logits;    ///< [outputs, vocab_size]
  std::vector<int> chosen;
  Packer packer;
  std::vector<std::vector<int>> held;  ///< a sequence's tokens in the cache
  GenerateStats stats;

  Impl(std::shared_ptr<const Engine::Impl> engine, const SessionOptions& options);

  /// What is wanted of the step behind each feed's last token.
  enum class Want : std::uint8_t {
    kTokens,           ///< element i of `chosen`
    kTokensAndLogits,  ///< and row i of `logits`
  };

  /// Reads the feeds and chooses a token behind each, as its choice says.
  void read(std::span<const Feed> feeds, std::span<const Choice> choices, Want want);

  /// Notes that the cache holds the batch's tokens.
  void hold(const Batch& batch);

  /// Forgets what sequence `sequence` holds beyond its common beginning with `tokens`, and beyond all but the last
  /// token, whose logits are wanted. Returns what is left to read.
  std::span<const int> keep_prefix(int sequence, std::span<const int> tokens);

  std::span<float> logits_row(std::size_t row) {
    const auto vocabulary = static_cast<std::size_t>(engine->info.vocab_size);
    return std::span(logits).subspan(row * vocabulary, vocabulary);
  }

  void check_tokens(std::span<const int> tokens) const;
};

}  // namespace nibble
