// How numbers become codes, one at a time or a block: the arithmetic that the encoders of every device share, so that
// they agree to the bit. It follows bitsandbytes 0.50.2 on a CPU: backends/default/ops.py (quantize_4bit) for the 4-bit
// codes and csrc/cpu_ops.cpp (quantize_cpu_impl) for the nested absmax. Its CUDA kernels differ only where a value
// falls on the border of two codes: they take an approximate reciprocal, decide FP4 by the rounded thresholds of
// csrc/kernels.cu, search the dynamic map exactly, and give a block of zeros code 0.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/numeric.h"

namespace nibble {

/// The nearest of 16 levels: the midpoints between neighbours, and codes by ascending level, four bits each.
struct Search4 {
  float midpoints[15];
  std::uint64_t codes;

  /// A value on a midpoint takes the lower level.
  NIBBLE_HD std::uint8_t nearest(float value) const {
    int below = 0;
    for (const float midpoint : midpoints) below += midpoint < value ? 1 : 0;
    return static_cast<std::uint8_t>(codes >> (4 * below) & 15);
  }
};

extern const Search4 kNf4Search;
extern const Search4 kFp4Search;

/// What values of a block are multiplied or divided by. bitsandbytes multiplies whole blocks by the reciprocal and
/// divides the last, short one, whose absmax it keeps as the divisor.
struct BlockDivisor {
  float absmax;
  float divisor, reciprocal;
  bool whole;

  /// `largest` is that of the values' magnitudes.
  NIBBLE_HD BlockDivisor(float largest, bool is_whole) : whole(is_whole) {
    constexpr float kTiny = 1e-38F;  // so that zeros stay zeros
    divisor = largest > kTiny ? largest : kTiny;
    reciprocal = 1.0F / divisor;
    absmax = whole ? largest : divisor;
  }

  NIBBLE_HD std::uint8_t code(float value, const Search4& search) const {
    const float scaled = whole ? value * reciprocal : value / divisor;
    return search.nearest(scaled < -1.0F ? -1.0F : scaled > 1.0F ? 1.0F : scaled);
  }
};

/// The index in the dynamic map (256 levels) for a value in [-1, 1], as bitsandbytes finds it: the value is snapped to
/// a grid of 65,536 points, and the point's nearest level taken, the lower one of two.
NIBBLE_HD std::uint8_t dynamic_code(float value, const float* map) {
  constexpr float kLastPoint = 65535.0F;
  const float inside = value < -1.0F ? -1.0F : value > 1.0F ? 1.0F : value;
  const float point = std::floor(std::fma((inside + 1.0F) * 0.5F, kLastPoint, 0.5F));
  const float snapped = -1.0F + 2.0F * point / kLastPoint;
  int above = 0;  // the first level that is not below the point
  for (int half = 128; half > 0; half /= 2) above += map[above + half - 1] < snapped ? half : 0;
  if (above == 0) return 0;
  if (above == 255 && map[255] < snapped) return 255;
  return static_cast<std::uint8_t>(0.5F * (map[above - 1] + map[above]) < snapped ? above : above - 1);
}

/// The nested code of an absmax, given the mean of all and the largest distance from it in the nested block.
NIBBLE_HD std::uint8_t nested_code(float absmax, float mean, float largest, const float* map) {
  return largest == 0 ? std::uint8_t{0} : dynamic_code((absmax - mean) * (1.0F / largest), map);
}

/// What a row's values, rounded to fp16, are multiplied by to become int8 codes. Both of bitsandbytes' paths multiply
/// by the reciprocal: torch divides a number by a tensor so, and CUDA's __fdividef does.
NIBBLE_HD float int8_factor(float scb) { return (1.0F / scb) * 127.0F; }

/// A row of zeros makes 0 * inf = NaN here, which bitsandbytes turns into code 0.
NIBBLE_HD std::int8_t int8_code(float value, float factor) {
  const float scaled = rounded<Half>(value) * factor;
  return std::isfinite(scaled) ? static_cast<std::int8_t>(std::nearbyint(scaled)) : std::int8_t{0};
}

// torch.mean of fp32 values, to the bit: bitsandbytes subtracts it, so the order of its additions is part of the
// format. It is the cascade of ATen/native/cpu/SumKernel.cpp for 8-lane vectors: four interleaved sums a lane, each
// adding up in four levels so that rounding errors grow slowly. The order on a GPU is another; the difference is in the
// last bit.

/// Lanes and interleaved sums of torch's mean of `count` values.
struct MeanShape {
  static constexpr int kSums = 4;  ///< a lane
  int lanes;
  std::int64_t vectors;  ///< of as many values as there are lanes
  std::int64_t terms;    ///< that each of the sums adds up

  NIBBLE_HD explicit MeanShape(std::int64_t count)
      : lanes(count < 8 ? 1 : 8), vectors(count / lanes), terms(vectors / kSums) {}
};

/// Sum number `sum` of a lane.
NIBBLE_HD float partial_sum(const float* values, const MeanShape& shape, int lane, int sum) {
  constexpr int kLevels = 4;
  constexpr int kTogether = 16;  // values that are fetched before they are added; every step is a multiple
  int width = 0;                 // bits of terms - 1
  while (shape.terms > 1 && (shape.terms - 1) >> width != 0) ++width;
  const int power = width / kLevels > 4 ? width / kLevels : 4;
  const std::int64_t step = std::int64_t{1} << power,
                     stride = static_cast<std::int64_t>(MeanShape::kSums) * shape.lanes;
  const float* next = values + sum * shape.lanes + lane;
  float levels[kLevels] = {};
  std::int64_t done = 0;
  while (done + step <= shape.terms) {
    for (std::int64_t i = 0; i < step; i += kTogether) {
      float fetched[kTogether];
      for (int j = 0; j < kTogether; ++j) fetched[j] = next[j * stride];
      for (int j = 0; j < kTogether; ++j) levels[0] += fetched[j];
      next += kTogether * stride;
    }
    done += step;
    bool carries = true;
    for (int level = 1; level < kLevels; ++level) {
      if (!carries) continue;
      levels[level] += levels[level - 1];
      levels[level - 1] = 0;
      carries = (done & ((step - 1) << (level * power))) == 0;
    }
  }
  for (; done < shape.terms; ++done, next += stride) levels[0] += *next;
  return ((levels[0] + levels[1]) + levels[2]) + levels[3];
}

/// The mean; `partial(lane, sum)` is partial_sum's.
template <class Partial>
NIBBLE_HD float torch_mean(const float* values, std::int64_t count, const Partial& partial) {
  const MeanShape shape(count);
  float total = 0;
  for (std::int64_t i = shape.vectors * shape.lanes; i < count; ++i) total += values[i];
  for (int lane = 0; lane < shape.lanes; ++lane) {
    float first = partial(lane, 0);
    for (std::int64_t v = MeanShape::kSums * shape.terms; v < shape.vectors; ++v)
      first += values[v * shape.lanes + lane];
    total += ((first + partial(lane, 1)) + partial(lane, 2)) + partial(lane, 3);
  }
  return total / static_cast<float>(count);
}

}  // namespace nibble
