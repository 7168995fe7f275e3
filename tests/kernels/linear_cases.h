// The weights that tests and benchmarks of linear layers run over: every layout, with random contents.
#pragma once

#include <array>
#include <concepts>
#include <random>
#include <string_view>
#include <vector>

#include "kernels/layout/weight.h"

namespace nibble {

inline std::vector<float> random_values(std::size_t count, std::uint32_t seed, float deviation = 1.0F) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, deviation);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

/// Values as T in a buffer.
template <class T>
Buffer buffer_of(std::span<const float> values) {
  Buffer buffer = Buffer::allocate(values.size() * sizeof(T));
  for (std::size_t i = 0; i < values.size(); ++i) buffer.mutable_as<T>()[i] = round_to<T>(values[i]);
  return buffer;
}

template <class T>
Weight random_dense(int n, int k, std::uint32_t seed) {
  const auto count = static_cast<std::size_t>(n) * static_cast<std::size_t>(k);
  return Dense<T>{buffer_of<T>(random_values(count, seed, 0.05F)), n, k};
}

template <std::derived_from<Int8Row> Layout>
Weight random_int8(int n, int k, std::uint32_t seed) {
  const auto count = static_cast<std::size_t>(n) * static_cast<std::size_t>(k);
  const std::vector<float> values = random_values(count, seed, 0.05F);
  Int8Row weight{Buffer::allocate(count), Buffer::allocate(static_cast<std::size_t>(n) * sizeof(float)), n, k};
  encode_int8_rows(values, k, {weight.codes.mutable_as<std::int8_t>(), count},
                   {weight.scb.mutable_as<float>(), static_cast<std::size_t>(n)});
  return Layout{weight};
}

/// All 256 codes, of which quantizing yields 255: -128 is in no file that bitsandbytes wrote.
template <std::derived_from<Int8Row> Layout>
Weight every_int8_code(int n, int k, std::uint32_t seed) {
  const auto count = static_cast<std::size_t>(n) * static_cast<std::size_t>(k);
  const std::vector<float> scb(static_cast<std::size_t>(n), 0.25F);
  Int8Row weight{Buffer::allocate(count), buffer_of<float>(scb), n, k};
  for (std::size_t i = 0; i < count; ++i) {
    weight.codes.mutable_as<std::uint8_t>()[i] = static_cast<std::uint8_t>(seed + 37 * i);
  }
  return Layout{weight};
}

/// 4-bit codes, kNf4 or kFp4.
template <class Scale, Scheme kCodes = Scheme::kNf4, int kBlocksize = 64>
Weight random_lut4(int n, int k, std::uint32_t seed) {
  static_assert(kCodes == Scheme::kNf4 || kCodes == Scheme::kFp4);
  const auto count = static_cast<std::size_t>(n) * static_cast<std::size_t>(k);
  const std::vector<float> values = random_values(count, seed, 0.05F);
  Buffer codes = Buffer::allocate((count + 1) / 2);
  std::vector<float> absmax((count + kBlocksize - 1) / kBlocksize);
  const auto encode = kCodes == Scheme::kNf4 ? encode_nf4 : encode_fp4;
  encode(values, kBlocksize, {codes.mutable_as<std::uint8_t>(), codes.size()}, absmax);
  Scale scale;
  if constexpr (std::is_same_v<Scale, F32Scale>) {
    scale = {buffer_of<float>(absmax)};
  } else {
    scale = encode_nested(absmax);
  }
  return Lut4<Scale>{codes, shared_table(kCodes == Scheme::kNf4 ? kNf4Levels : kFp4Levels), scale, kBlocksize, n, k};
}

/// kGroupSize 0: whole rows.
template <class Zero, int kGroupSize = 128>
Weight random_int4(int n, int k, std::uint32_t seed) {
  const int group_size = kGroupSize == 0 ? k : kGroupSize;
  const auto count = static_cast<std::size_t>(n) * static_cast<std::size_t>(k);
  const auto groups = static_cast<std::size_t>(n) * static_cast<std::size_t>(groups_in_row(k, group_size));
  const std::vector<float> values = random_values(count, seed, 0.05F);
  Buffer codes = Buffer::allocate((count + 1) / 2);
  Buffer scales = Buffer::allocate(groups * sizeof(Half));
  const std::span codes_span(codes.mutable_as<std::uint8_t>(), codes.size());
  const std::span scales_span(scales.mutable_as<Half>(), groups);
  if constexpr (std::is_same_v<Zero, SymmetricZero>) {
    encode_int4(values, k, group_size, codes_span, scales_span);
    return Int4Group<Zero>{codes, scales, {}, group_size, n, k};
  } else {
    Buffer zeros = Buffer::allocate(groups);
    encode_int4_asym(values, k, group_size, codes_span, scales_span, {zeros.mutable_as<std::uint8_t>(), groups});
    return Int4Group<Zero>{codes, scales, {zeros}, group_size, n, k};
  }
}

struct WeightCase {
  std::string_view name;
  Weight (*make)(int n, int k, std::uint32_t seed);
};

/// One case for each alternative of Weight, in its order.
inline constexpr std::array<WeightCase, std::variant_size_v<Weight>> kWeightCases = {{
    {"fp32", random_dense<float>},
    {"fp16", random_dense<Half>},
    {"bf16", random_dense<BFloat16>},
    {"int8", random_int8<Int8Row>},
    {"int8-decomp", random_int8<Int8Decomp>},
    {"nf4", random_lut4<F32Scale>},
    {"nf4-dq", random_lut4<NestedScale>},
    {"int4", random_int4<SymmetricZero>},
    {"int4-asym", random_int4<ZeroPoints>},
}};

/// The other codes and block sizes of those layouts.
inline constexpr std::array<WeightCase, 9> kBlocksizeCases = {{
    {"fp4", random_lut4<F32Scale, Scheme::kFp4>},
    {"fp4-dq", random_lut4<NestedScale, Scheme::kFp4>},
    {"nf4-32", random_lut4<F32Scale, Scheme::kNf4, 32>},
    {"nf4-128", random_lut4<F32Scale, Scheme::kNf4, 128>},
    {"nf4-dq-32", random_lut4<NestedScale, Scheme::kNf4, 32>},
    {"nf4-dq-128", random_lut4<NestedScale, Scheme::kNf4, 128>},
    {"nf4-4096", random_lut4<F32Scale, Scheme::kNf4, 4096>},
    {"int4-row", random_int4<SymmetricZero, 0>},
    {"int4-asym-64", random_int4<ZeroPoints, 64>},
}};

}  // namespace nibble
