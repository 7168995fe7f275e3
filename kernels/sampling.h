// What it means to choose a token from a row of logits. Every backend does it in the order and with the arithmetic that
// stand here: exact operations on fp32 and whole numbers, so that all of them choose the same token from the same
// logits.
//
// Tokens stand on a line, from the likeliest on, equally likely ones by their ids, and each is as long as it is likely.
// Each filter cuts the line, in transformers' order (transformers/generation/logits_process.py): top-k, top-p
// (arXiv:1904.09751), min-p (arXiv:2407.01082). Then a random number points at a place on what is left, and the token
// that lies there is chosen. Before that, the repetition penalty (arXiv:1909.05858) and the temperature change logits.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>

#include "kernels/numeric.h"

namespace nibble {

/// How the token behind one output is chosen.
struct Choice {
  float temperature = 0.0F;         ///< 0: the likeliest, the lowest id of equal ones, whatever the filters are
  int top_k = 0;                    ///< 0: off; ties with the k-th survive
  float top_p = 1.0F;               ///< 1: off
  float min_p = 0.0F;               ///< 0: off
  float repetition_penalty = 1.0F;  ///< 1: off
  std::uint64_t random = 0;         ///< 64 random bits
  std::span<const int> seen = {};   ///< the ids to be penalised, as often as they like; not copied by `begin`
};

/// A token's key says how far its logit is below the largest, in steps of 2^-17. Logits nearer to each other than that
/// count as equal: fp32 logits beyond 64 are not known better. Tokens of kKeys and more, less than 1e-12 times as
/// likely as the likeliest, are not on the line.
inline constexpr float kKeysOfOne = 131072.0F;
inline constexpr std::uint32_t kReach = 28;
inline constexpr std::uint32_t kKeys = kReach << 17;

/// Keys are searched by their first half, then by their second.
inline constexpr int kHalfKey = 11;
inline constexpr std::uint32_t kHalfKeys = 1U << kHalfKey;

/// 64 fractional bits. kWhole stands for 1.
inline constexpr std::uint64_t kWhole = ~std::uint64_t{0};

NIBBLE_HD std::uint64_t part_of(std::uint64_t length, std::uint64_t fraction) {
#if defined(__CUDA_ARCH__)
  return __umul64hi(length, fraction);
#else
  __extension__ typedef unsigned __int128 Wide;
  return static_cast<std::uint64_t>((static_cast<Wide>(length) * fraction) >> 64);
#endif
}

/// A choice in the numbers that logits and lengths are compared with.
struct Draw {
  float temperature, repetition_penalty;
  std::uint32_t top_k;  ///< 0: off
  std::uint32_t min_p;  ///< keys that survive
  std::uint64_t top_p, random;

  Draw() = default;
  explicit Draw(const Choice& c)
      : temperature(c.temperature),
        repetition_penalty(c.repetition_penalty),
        top_k(static_cast<std::uint32_t>(c.top_k)),
        min_p(keys_of(c.min_p)),
        top_p(c.top_p < 1.0F ? static_cast<std::uint64_t>(static_cast<double>(c.top_p) * 0x1p64) : kWhole),
        random(c.random) {}

 private:
  static std::uint32_t keys_of(float min_p) {
    const double distance = min_p > 0.0F ? -std::log(static_cast<double>(min_p)) : kReach;
    return distance < kReach ? static_cast<std::uint32_t>(distance * static_cast<double>(kKeysOfOne)) + 1 : kKeys;
  }
};

NIBBLE_HD float penalised(float logit, float penalty) { return logit < 0.0F ? logit * penalty : logit / penalty; }

/// `largest` is that of the row. NaNs have no place on the line.
NIBBLE_HD std::uint32_t key_of(float logit, float largest) {
  const float distance = logit == largest ? 0.0F : largest - logit;
  return distance < static_cast<float>(kReach)
             ? static_cast<std::uint32_t>(static_cast<std::int32_t>(distance * kKeysOfOne))
             : kKeys;
}

/// A token's length on the line: 2^42 e^-(key 2^-17), to a few units of the 24th place; at least 3.
NIBBLE_HD std::uint64_t length_of(std::uint32_t key) {
  const float x = static_cast<float>(static_cast<std::int32_t>(key)) * (1.0F / kKeysOfOne);
  // e^-x = 2^-n e^r, where n ln(2) is nearest to x. ln(2) is taken in two parts, of which the first is short enough for
  // its product to be exact.
  const auto n = static_cast<std::int32_t>(x * 1.44269504F + 0.5F);
  const auto whole = static_cast<float>(n);
  const float r = (whole * 0.693359375F - x) + whole * -2.12194440e-4F;
  float p = 1.0F / 5040;  // Taylor's polynomial: |r| is at most ln(2) / 2
  p = p * r + 1.0F / 720;
  p = p * r + 1.0F / 120;
  p = p * r + 1.0F / 24;
  p = p * r + 1.0F / 6;
  p = p * r + 0.5F;
  p = p * r + 1.0F;
  p = p * r + 1.0F;
  const auto fixed = static_cast<std::uint64_t>(static_cast<std::uint32_t>(static_cast<std::int32_t>(p * 0x1p30F)));
  return (fixed << 12) >> n;
}

/// A place on the line: the tokens of one key, and the length of all before them.
struct Stand {
  std::uint32_t key;
  std::uint64_t before;
};

/// Cuts the line and draws. A Line is a row of tokens on some device, which
///   key_of_rank(k)     finds the key of the k-th likeliest token, from 1 on, or the last key where there are fewer
///   measure(keys)      returns the length of all tokens whose key is less than `keys`
///   at(place)          finds who stands at a place before the length that was last measured
///   token(key, i)      finds the i-th token of that key, by its id
template <class Line>
NIBBLE_HD int draw_from(Line& line, const Draw& draw) {
  std::uint32_t keys = draw.top_k > 0 ? line.key_of_rank(draw.top_k) + 1 : kKeys;
  std::uint64_t length = line.measure(keys);
  if (length == 0) return 0;  // nothing but NaNs
  if (draw.top_p != kWhole) {
    // The last token that stays is the one that lies on the last place before that part of the length.
    const std::uint64_t part = part_of(length, draw.top_p);
    const std::uint64_t place = part == 0 ? 0 : part - 1;
    const Stand last = line.at(place);
    const std::uint64_t one = length_of(last.key);
    length = last.before + ((place - last.before) / one + 1) * one;
    keys = last.key + 1;
  }
  if (draw.min_p < keys) length = line.measure(draw.min_p);
  const std::uint64_t place = part_of(length, draw.random);
  const Stand found = line.at(place);
  return line.token(found.key, static_cast<std::uint32_t>((place - found.before) / length_of(found.key)));
}

}  // namespace nibble
