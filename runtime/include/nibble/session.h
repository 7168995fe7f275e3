// A conversation with a model: the cache of what has been read, and generation from it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/memory.h"

namespace nibble {

struct SessionOptions {
  int context = 0;    ///< most tokens a sequence may have, prompt included; 0: as many as the model was made for
  int sequences = 1;  ///< how many sequences are generated at once, 1 to 65535
};

/// Values as in transformers; applied in its order: repetition penalty, temperature, top-k, top-p, min-p.
struct GenerateOptions {
  int max_tokens = 128;             ///< new tokens a sequence; stops earlier where the context ends
  float temperature = 0.0F;         ///< 0: greedy (the lowest id wins a tie); else kLeast to kMost
  int top_k = 0;                    ///< 0: off; ties with the k-th survive
  float top_p = 1.0F;               ///< 1: off
  float min_p = 0.0F;               ///< 0: off
  float repetition_penalty = 1.0F;  ///< 1: off; kLeast to kMost
  std::uint64_t seed = 0;  ///< token n of sequence i is drawn by seed, i and n; generate says when tokens are the same
  int logprobs = -1;       ///< -1: none; 0: of the chosen token; n: and of the n likeliest
  bool ignore_eos = false;
  std::vector<int> eos_tokens = {};    ///< ends a sequence when generated
  std::vector<std::string> stop = {};  ///< ends a sequence when its text contains one; the text is cut before it
  static constexpr float kLeast = 1e-6F, kMost = 1e6F;  ///< of a temperature but 0, and of repetition_penalty
};

struct TokenLogprob {
  int id;
  float logprob;  ///< natural logarithm, of the distribution before sampling options
};

/// One step of one sequence, as it happens.
struct Step {
  int sequence, id;
  std::string_view text;                   ///< whole characters only; may be empty; valid during the call
  std::span<const TokenLogprob> logprobs;  ///< the chosen token first, then the likeliest
};

/// Called on generate's thread while a GPU is at the next step already. May throw; may not use the session.
using OnStep = std::function<bool(const Step&)>;          ///< returns false to end that sequence
using OnRead = std::function<bool(int done, int total)>;  ///< between steps reading prompts, in tokens; false ends all

enum class FinishReason : std::uint8_t { kMaxTokens, kEndOfText, kStopString, kContextFull, kCancelled };
std::string_view to_string(FinishReason reason);

struct Completion {
  std::vector<int> prompt, tokens;                  ///< ids: as given, and generated, an end token included
  std::string text;                                 ///< of the generated tokens; empty without a tokenizer
  std::vector<std::vector<TokenLogprob>> logprobs;  ///< one a generated token, as in Step
  FinishReason finish;
};

/// Seconds of wall time. Rates are tokens of all sequences together.
struct GenerateStats {
  int prompt_tokens = 0;   ///< given
  int prefill_tokens = 0;  ///< computed: less what the cache already held
  int decode_tokens = 0;   ///< generated after the first of each sequence
  double prefill_seconds = 0, decode_seconds = 0;
  double first_token_seconds = 0;  ///< TTFT: from the call to the first sampled token
};

/// One kind of kernel by itself. A linear, or all linears of one input, has m rows of k numbers in and n out; attention
/// has m rows, n heads and k numbers in each. Bytes are weights with their state, or keys and values.
struct KernelTiming {
  std::string name;  ///< qkv, attention, out, fc1, fc2, head
  int m, n, k;
  double bytes, flops;          ///< of one layer
  std::vector<double> seconds;  ///< of one layer, one for each repetition
};

/// Which kernels multiply by a weight [n, k]: each from a number of tokens that a sequence adds in a step on.
struct LinearKernels {
  std::string name, layout;  ///< q, k, v; out; fc1, ...; a scheme, or the dtype of a weight that has none
  int n, k;
  std::vector<std::pair<int, std::string>> ways;
};

/// Owns what moves while its Engine stays as it is. One thread at a time; sessions of one engine may run in parallel.
class Session {
 public:
  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;
  ~Session();

  /// Continues each prompt (ids), all at once and at most SessionOptions::sequences. Each has exactly the logits it
  /// would have alone; where tokens are drawn, its draws go by its place among the prompts. The same prompts, options
  /// and seed give the same tokens in sessions of an engine that hold nothing: new, or reset. What a prompt shares with
  /// the beginning of what its sequence holds is not computed again; the shorter rest may take other kernels, whose
  /// last bits differ, so that now and then another token follows. Throws Error{kInvalidArgument} for a prompt that is
  /// empty or beyond the context, an id outside the vocabulary, or options out of range.
  std::vector<Completion> generate(std::span<const std::vector<int>> prompts, const GenerateOptions& options,
                                   const OnStep& on_step = {}, const OnRead& on_read = {});
  /// The same for one prompt given as text.
  Completion generate(std::string_view prompt, const GenerateOptions& options, const OnStep& = {}, const OnRead& = {});
  /// Logits of every position, fp32, row-major [tokens, vocab_size]. `attention_mask`, when not empty, has one value a
  /// token: a token under 0 is neither seen nor counted for positions, as if it were not there; its row is zero.
  std::vector<float> logits(std::span<const int> tokens, std::span<const std::uint8_t> attention_mask = {});
  /// Runs the kernels of a step that reads `rows` tokens behind `past` ones into every sequence, each in one layer
  /// after the other, so that weights come from memory as in a step. The sequences then hold nothing. Throws Error.
  std::vector<KernelTiming> time_kernels(int rows, int past, int repetitions);
  std::vector<LinearKernels> explain_kernels() const;  ///< of the linears, one for each shape
  /// Forgets what the sequences hold, so that the next call computes what it would in a new session.
  void reset();
  const GenerateStats& last_stats() const;
  MemoryLedger memory() const;  ///< measured from the buffers that exist

  struct Impl;
  explicit Session(std::unique_ptr<Impl> impl);

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace nibble
