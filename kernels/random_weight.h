// Weights made up from a seed: nearly normal numbers, and codes drawn directly in the scheme asked for, so that nothing
// is quantized. Number i of a weight follows from the seed and i alone, the same on every device.
#pragma once

#include "kernels/storage.h"

namespace nibble {

/// What a made-up weight is.
struct RandomWeight {
  int n, k;
  Storage storage;
  float deviation;  ///< standard deviation of its values
  std::uint64_t seed;

  std::int64_t elements() const { return static_cast<std::int64_t>(n) * k; }

  /// Of every block or row: the expected maximum of 64 normal numbers is 2.4 standard deviations.
  float absmax() const { return 2.4F * deviation; }
  /// Of every group of int4 codes, whose zero point is 8.
  float int4_scale() const { return 2 * absmax() / 15; }
};

/// What there is at place i.
struct RandomStream {
  std::uint64_t seed;
  float value_scale;  ///< from a sum of four 16-bit numbers to the deviation
  float code_scale;   ///< from a value to an int8 code
  float int4_scale;   ///< from an int4 code to a value

  explicit RandomStream(const RandomWeight& weight)
      : seed(weight.seed),
        value_scale(weight.deviation / 37837.2F),
        code_scale(127.0F / weight.absmax()),
        int4_scale(weight.int4_scale()) {}

  /// SplitMix64 (Steele, Lea, Flood 2014): any position of the stream at once, so pieces are drawn in parallel.
  NIBBLE_HD std::uint64_t bits(std::int64_t i) const {
    std::uint64_t z = seed + (static_cast<std::uint64_t>(i) + 1) * 0x9e3779b97f4a7c15ULL;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  }

  /// Nearly normal: the sum of four uniform 16-bit numbers, whose deviation is 65536 * sqrt(4 / 12) = 37837.2.
  NIBBLE_HD float value(std::int64_t i) const {
    const std::uint64_t b = bits(i);
    const auto sum = static_cast<float>((b & 0xffff) + ((b >> 16) & 0xffff) + ((b >> 32) & 0xffff) + (b >> 48));
    return (sum - 131070.0F) * value_scale;
  }

  NIBBLE_HD std::int8_t int8_code(std::int64_t i) const {
    const float code = value(i) * code_scale;
    return static_cast<std::int8_t>(code < -127.0F ? -127.0F : code > 127.0F ? 127.0F : code);
  }

  /// Two int4 codes, normal around 8.
  NIBBLE_HD std::uint8_t int4_pair(std::int64_t i) const {
    return static_cast<std::uint8_t>(int4_code(2 * i) << 4 | int4_code(2 * i + 1));
  }
  NIBBLE_HD unsigned int4_code(std::int64_t i) const {
    const float code = value(i) / int4_scale + 8.5F;
    return static_cast<unsigned>(code < 0.0F ? 0.0F : code > 15.0F ? 15.0F : code);
  }

  /// Two 4-bit codes, uniform: NF4's levels are quantiles of the normal distribution, so that uniform codes are normal
  /// weights.
  NIBBLE_HD std::uint8_t code_pair(std::int64_t i) const {
    return static_cast<std::uint8_t>(bits(i / 8) >> (8 * (i % 8)));
  }
};

/// In host memory.
Weight make_random_weight(const RandomWeight& weight, ThreadPool& pool);

}  // namespace nibble
