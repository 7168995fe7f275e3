// From logits to the next token, as transformers does it: repetition penalty, then temperature, top-k, top-p, min-p,
// then one draw. (transformers/generation/logits_process.py.)
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "nibble/session.h"

namespace nibble {

struct Candidate {
  int id;
  float logit;
};

/// Throws Error{kInvalidArgument} naming the option that is out of range.
void check_options(const GenerateOptions& options);

/// Divides (positive) or multiplies (negative) the logits of every token of `history` once by `penalty`. Leaves
/// `history` in order and without what it repeats.
void penalize_repetition(std::span<float> logits, std::vector<int>& history, float penalty);

/// Makes `left` the tokens that temperature, top-k, top-p and min-p leave, with their scaled logits. Never empty.
void find_candidates(std::span<const float> logits, const GenerateOptions& options, std::vector<Candidate>& left);

/// ln softmax(logits)[chosen], then the `count` likeliest.
std::vector<TokenLogprob> logprobs(std::span<const float> logits, int chosen, int count);

/// Chooses tokens of one sequence. The stream of draws depends on the seed and the sequence's number alone.
class Sampler {
 public:
  /// Of a sequence of up to `most_tokens`.
  Sampler(const GenerateOptions& options, int sequence, std::size_t most_tokens);

  /// `logits` is overwritten. `history` is the prompt and what was generated.
  int sample(std::span<float> logits, std::span<const int> history);

 private:
  const GenerateOptions& options_;
  std::mt19937_64 random_;
  std::vector<int> seen_;  // working memory of `sample`
  std::vector<Candidate> left_;
};

}  // namespace nibble
