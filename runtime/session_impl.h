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
  KvCache cache;
  Buffer activations, results;  ///< what OptModel works in
  std::vector<float> logits;    ///< [outputs, vocab_size]
  std::vector<int> chosen;
  Packer packer;
  /// A sequence's tokens in the cache. A token the GPU read before the host knew it is held as the placeholder
  /// chosen_before(i) until it is accepted. If the sequence ends first the placeholder stays: it is negative, so it
  /// matches no prompt.
  std::vector<std::vector<int>> held;
  GenerateStats stats;
  std::unique_ptr<Backend> backend;  ///< goes first: it waits for what is still done with the others

  Impl(std::shared_ptr<const Engine::Impl> engine, const SessionOptions& options);

  /// What is wanted of a step's outputs.
  enum class Want : std::uint8_t {
    kTokens,           ///< elements of `chosen`
    kTokensAndLogits,  ///< and rows of `logits`
  };

  /// Starts the packer's next step. Its outputs take the first of the choices. Returns how many tokens it reads.
  int start(std::span<const Choice> choices);

  /// Waits for the step that was started `steps_back` before the last one, 0 or 1, and puts what is wanted of it behind
  /// what is in `chosen` and `logits`. Logits are those of the last one.
  void take(int steps_back, Want want);

  /// Reads the feeds, `total` tokens, and chooses a token behind each, as its choice says. Returns how many tokens were
  /// read: fewer when `on_read` has ended that.
  int read(std::span<const Feed> feeds, int total, std::span<const Choice> choices, Want want, const OnRead& on_read);

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
