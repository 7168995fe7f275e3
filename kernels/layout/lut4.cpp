// The arithmetic follows bitsandbytes 0.50.2 on a CPU: backends/default/ops.py (quantize_4bit) for the 4-bit codes and
// csrc/cpu_ops.cpp (quantize_cpu_impl) for the nested absmax. Its CUDA kernels differ only where a value falls on the
// border of two codes: they take an approximate reciprocal, decide FP4 by the rounded thresholds of csrc/kernels.cu,
// search the dynamic map exactly, and give a block of zeros code 0.
#include "kernels/layout/lut4.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace nibble {
namespace {

constexpr std::array<float, 256> dynamic_map() {
  constexpr std::array<float, 7> kDecades = {1e-6F, 1e-5F, 1e-4F, 1e-3F, 1e-2F, 1e-1F, 1.0F};
  std::array<float, 256> map{};
  std::size_t distance = 0;  // from the zero at index 127
  for (std::size_t decade = 0; decade < kDecades.size(); ++decade) {
    const int intervals = 1 << decade;
    // torch.linspace counts from the nearer end, with one rounding a point (its multiply-add is fused).
    const float step = (1.0F - 0.1F) / static_cast<float>(intervals);
    const auto boundary = [&](int i) {
      return 2 * i <= intervals ? static_cast<float>(static_cast<double>(0.1F) + static_cast<double>(step) * i)
                                : static_cast<float>(1.0 - static_cast<double>(step) * (intervals - i));
    };
    for (int i = 0; i < intervals; ++i) {
      const float mean = kDecades[decade] * ((boundary(i) + boundary(i + 1)) / 2.0F);
      ++distance;
      map[127 + distance] = mean;
      map[127 - distance] = -mean;
    }
  }
  map[255] = 1.0F;
  return map;
}

/// Codes by ascending level, and the midpoints between neighbouring levels: what a nearest-level search needs.
struct Search {
  std::array<float, 15> midpoints;
  std::array<std::uint8_t, 16> codes;

  Search(const std::array<float, 16>& levels, const std::array<std::uint8_t, 16>& ascending) : codes(ascending) {
    for (std::size_t i = 0; i < midpoints.size(); ++i) midpoints[i] = (levels[codes[i]] + levels[codes[i + 1]]) / 2.0F;
  }

  /// A value on a midpoint takes the lower level.
  std::uint8_t nearest(float value) const {
    std::size_t below = 0;
    for (const float midpoint : midpoints) below += midpoint < value ? 1 : 0;
    return codes[below];
  }
};

float absmax_of(std::span<const float> block) {
  float absmax = 0;
  for (const float value : block) absmax = std::fmax(absmax, std::fabs(value));
  return absmax;
}

/// Smallest absmax a block is divided by, so that zeros stay zeros.
constexpr float kTiny = 1e-38F;

void encode(std::span<const float> weights, std::size_t blocksize, const Search& search, std::span<std::uint8_t> codes,
            std::span<float> absmax) {
  for (std::size_t block = 0; block < absmax.size(); ++block) {
    const std::size_t first = block * blocksize;
    const auto values = weights.subspan(first, std::min(blocksize, weights.size() - first));
    const bool whole = values.size() == blocksize;
    const float largest = absmax_of(values);
    const float divisor = std::max(largest, kTiny);
    const float reciprocal = 1.0F / divisor;
    // bitsandbytes multiplies whole blocks by the reciprocal, and divides the last, short one.
    const auto code = [&](std::size_t i) {
      if (i >= values.size()) return search.nearest(0.0F);
      const float scaled = whole ? values[i] * reciprocal : values[i] / divisor;
      return search.nearest(std::clamp(scaled, -1.0F, 1.0F));
    };
    absmax[block] = whole ? largest : divisor;
    for (std::size_t i = 0; i < values.size(); i += 2) {
      codes[(first + i) / 2] = static_cast<std::uint8_t>(code(i) << 4 | code(i + 1));
    }
  }
}

/// The dynamic map's index for a value in [-1, 1], as bitsandbytes finds it: the value is snapped to a grid of 65,536
/// points, and the point's nearest level taken, the lower one of two.
std::uint8_t dynamic_code(float value) {
  constexpr float kLastPoint = 65535.0F;
  const float point = std::floor(std::fma((std::clamp(value, -1.0F, 1.0F) + 1.0F) * 0.5F, kLastPoint, 0.5F));
  const float snapped = -1.0F + 2.0F * point / kLastPoint;
  const auto above = std::ranges::lower_bound(kDynamicMap, snapped);
  if (above == kDynamicMap.begin()) return 0;
  if (above == kDynamicMap.end()) return 255;
  const auto index = static_cast<std::uint8_t>(above - kDynamicMap.begin());
  return 0.5F * (above[-1] + above[0]) < snapped ? index : static_cast<std::uint8_t>(index - 1);
}

// torch.mean of fp32 values, to the bit: bitsandbytes subtracts it, so the order of its additions is part of the
// format. It is the cascade of ATen/native/cpu/SumKernel.cpp for 8-lane vectors: four interleaved sums a lane, each
// adding up in four levels so that rounding errors grow slowly. The order on a GPU is another; the difference is in the
// last bit.

/// The sum of `count` values that stand `stride` apart.
float cascade_sum(const float* values, std::size_t stride, std::size_t count) {
  constexpr std::size_t kLevels = 4;
  const std::size_t power = std::max<std::size_t>(4, count < 2 ? 0 : std::bit_width(count - 1) / kLevels);
  const std::size_t step = std::size_t{1} << power;
  std::array<float, kLevels> levels{};
  std::size_t done = 0;
  while (done + step <= count) {
    for (std::size_t i = 0; i < step; ++i) levels[0] += values[stride * done++];
    for (std::size_t level = 1; level < kLevels; ++level) {
      levels[level] += levels[level - 1];
      levels[level - 1] = 0;
      if ((done & ((step - 1) << (level * power))) != 0) break;
    }
  }
  while (done < count) levels[0] += values[stride * done++];
  return ((levels[0] + levels[1]) + levels[2]) + levels[3];
}

float torch_mean(std::span<const float> values) {
  const std::size_t lanes = values.size() < 8 ? 1 : 8;
  const std::size_t vectors = values.size() / lanes;
  const std::size_t quarter = vectors / 4;
  float sum = 0;
  for (std::size_t i = vectors * lanes; i < values.size(); ++i) sum += values[i];
  for (std::size_t lane = 0; lane < lanes; ++lane) {
    std::array<float, 4> partial{};
    for (std::size_t k = 0; k < 4; ++k) {
      partial[k] = cascade_sum(values.data() + k * lanes + lane, 4 * lanes, quarter);
    }
    for (std::size_t v = 4 * quarter; v < vectors; ++v) partial[0] += values[v * lanes + lane];
    sum += ((partial[0] + partial[1]) + partial[2]) + partial[3];
  }
  return sum / static_cast<float>(values.size());
}

}  // namespace

constexpr std::array<float, 16> kNf4Levels = {-1.0F,
                                              -0.6961928009986877F,
                                              -0.5250730514526367F,
                                              -0.39491748809814453F,
                                              -0.28444138169288635F,
                                              -0.18477343022823334F,
                                              -0.09105003625154495F,
                                              0.0F,
                                              0.07958029955625534F,
                                              0.16093020141124725F,
                                              0.24611230194568634F,
                                              0.33791524171829224F,
                                              0.44070982933044434F,
                                              0.5626170039176941F,
                                              0.7229568362236023F,
                                              1.0F};

constexpr std::array<float, 16> kFp4Levels = {
    0.0F, 0.0625F / 12,  8.0F / 12,  12.0F / 12,  4.0F / 12,  6.0F / 12,  2.0F / 12,  3.0F / 12,
    0.0F, -0.0625F / 12, -8.0F / 12, -12.0F / 12, -4.0F / 12, -6.0F / 12, -2.0F / 12, -3.0F / 12};

constexpr std::array<float, 256> kDynamicMap = dynamic_map();

Buffer shared_table(std::span<const float> table) { return Buffer::borrow(std::as_bytes(table), nullptr); }

void encode_nf4(std::span<const float> weights, int blocksize, std::span<std::uint8_t> codes, std::span<float> absmax) {
  static const Search search(kNf4Levels, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15});
  encode(weights, static_cast<std::size_t>(blocksize), search, codes, absmax);
}

void encode_fp4(std::span<const float> weights, int blocksize, std::span<std::uint8_t> codes, std::span<float> absmax) {
  // Of the two zeros, the one with the sign bit comes second: small positive values get it (torch.argsort's order).
  static const Search search(kFp4Levels, {11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3});
  encode(weights, static_cast<std::size_t>(blocksize), search, codes, absmax);
}

NestedScale encode_nested(std::span<const float> absmax) {
  constexpr std::size_t kBlock = NestedScale::kBlocksize;
  NestedScale scale{Buffer::allocate(absmax.size()),
                    Buffer::allocate((absmax.size() + kBlock - 1) / kBlock * sizeof(float)), shared_table(kDynamicMap),
                    torch_mean(absmax)};
  auto* codes = scale.absmax.mutable_as<std::uint8_t>();
  auto* nested_absmax = scale.nested_absmax.mutable_as<float>();
  for (std::size_t first = 0; first < absmax.size(); first += kBlock) {
    const auto block = absmax.subspan(first, std::min(kBlock, absmax.size() - first));
    float largest = 0;
    for (const float value : block) largest = std::fmax(largest, std::fabs(value - scale.offset));
    nested_absmax[first / kBlock] = largest;
    const float reciprocal = 1.0F / largest;
    for (std::size_t i = 0; i < block.size(); ++i) {
      codes[first + i] = largest == 0 ? std::uint8_t{0} : dynamic_code((block[i] - scale.offset) * reciprocal);
    }
  }
  return scale;
}

}  // namespace nibble
