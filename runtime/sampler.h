// What options have to do with choosing tokens: their limits, the random bits of a step, and probabilities for people.
// Choosing itself is a verb of the backend, see kernels/sampling.h.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "nibble/session.h"

namespace nibble {

/// Throws Error{kInvalidArgument} naming the option that is out of range.
void check_options(const GenerateOptions& options);

/// Philox4x32 with 10 rounds: 128 random bits of a counter and a key (Salmon et al., "Parallel random numbers: as easy
/// as 1, 2, 3", 2011).
std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key);

/// What sequence number `sequence` draws its new token number `step` with, both from 0 on. Depends on nothing else.
std::uint64_t random_bits(std::uint64_t seed, int sequence, int step);

/// ln softmax(logits)[chosen], then the `count` likeliest.
std::vector<TokenLogprob> logprobs(std::span<const float> logits, int chosen, int count);

}  // namespace nibble
