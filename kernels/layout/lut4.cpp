#include "kernels/layout/lut4.h"

#include <algorithm>
#include <cmath>

#include "kernels/layout/encode.h"

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

constexpr Search4 search_of(const std::array<float, 16>& levels, const std::array<std::uint8_t, 16>& ascending) {
  Search4 search{};
  for (std::size_t i = 0; i < 16; ++i) search.codes |= std::uint64_t{ascending[i]} << (4 * i);
  for (std::size_t i = 0; i < 15; ++i) search.midpoints[i] = (levels[ascending[i]] + levels[ascending[i + 1]]) / 2.0F;
  return search;
}

float absmax_of(std::span<const float> block) {
  float absmax = 0;
  for (const float value : block) absmax = std::fmax(absmax, std::fabs(value));
  return absmax;
}

void encode(std::span<const float> weights, std::size_t blocksize, const Search4& search, std::span<std::uint8_t> codes,
            std::span<float> absmax) {
  for (std::size_t block = 0; block < absmax.size(); ++block) {
    const std::size_t first = block * blocksize;
    const auto values = weights.subspan(first, std::min(blocksize, weights.size() - first));
    const BlockDivisor divisor(absmax_of(values), values.size() == blocksize);
    const auto code = [&](std::size_t i) {
      return i < values.size() ? divisor.code(values[i], search) : search.nearest(0.0F);
    };
    absmax[block] = divisor.absmax;
    for (std::size_t i = 0; i < values.size(); i += 2) {
      codes[(first + i) / 2] = static_cast<std::uint8_t>(code(i) << 4 | code(i + 1));
    }
  }
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

constexpr Search4 kNf4Search = search_of(kNf4Levels, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15});
/// Of the two zeros, the one with the sign bit comes second: small positive values get it (torch.argsort's order).
constexpr Search4 kFp4Search = search_of(kFp4Levels, {11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3});

Buffer shared_table(std::span<const float> table) { return Buffer::borrow(std::as_bytes(table), nullptr); }

void encode_nf4(std::span<const float> weights, int blocksize, std::span<std::uint8_t> codes, std::span<float> absmax) {
  encode(weights, static_cast<std::size_t>(blocksize), kNf4Search, codes, absmax);
}

void encode_fp4(std::span<const float> weights, int blocksize, std::span<std::uint8_t> codes, std::span<float> absmax) {
  encode(weights, static_cast<std::size_t>(blocksize), kFp4Search, codes, absmax);
}

NestedScale encode_nested(std::span<const float> absmax) {
  constexpr std::size_t kBlock = NestedScale::kBlocksize;
  const auto count = static_cast<std::int64_t>(absmax.size());
  const auto partial = [&](int lane, int sum) { return partial_sum(absmax.data(), MeanShape(count), lane, sum); };
  NestedScale scale{Buffer::allocate_in_huge_pages(absmax.size()),
                    Buffer::allocate((absmax.size() + kBlock - 1) / kBlock * sizeof(float)), shared_table(kDynamicMap),
                    torch_mean(absmax.data(), count, partial)};
  auto* codes = scale.absmax.mutable_as<std::uint8_t>();
  auto* nested_absmax = scale.nested_absmax.mutable_as<float>();
  for (std::size_t first = 0; first < absmax.size(); first += kBlock) {
    const auto block = absmax.subspan(first, std::min(kBlock, absmax.size() - first));
    float largest = 0;
    for (const float value : block) largest = std::fmax(largest, std::fabs(value - scale.offset));
    nested_absmax[first / kBlock] = largest;
    for (std::size_t i = 0; i < block.size(); ++i) {
      codes[first + i] = nested_code(block[i], scale.offset, largest, kDynamicMap.data());
    }
  }
  return scale;
}

}  // namespace nibble
