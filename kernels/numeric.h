// Half-precision storage and the rounding contract: kernels accumulate in fp32 and round to the compute dtype once, at
// the outputs of operations. Conversions are IEEE round-to-nearest-even. Everything is forced inline because these
// headers are compiled for several instruction sets and no shared copy of a function may exist.
#pragma once

#include <bit>
#include <cstdint>

#include "nibble/types.h"

#if defined(__CUDACC__)
#define NIBBLE_HD __host__ __device__ __forceinline__
#else
#define NIBBLE_HD inline __attribute__((always_inline))
#endif

namespace nibble {

struct Half {
  std::uint16_t bits;
};

struct BFloat16 {
  std::uint16_t bits;
};

NIBBLE_HD float to_float(float value) { return value; }

NIBBLE_HD float to_float(BFloat16 value) { return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16); }

NIBBLE_HD float to_float(Half value) {
  const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000U) << 16;
  const std::uint32_t magnitude = static_cast<std::uint32_t>(value.bits & 0x7fffU) << 13;
  // Multiplying by 2^112 rebiases the exponent and makes subnormals right in one exact step. Without branches, so that
  // compilers can convert several values at a time.
  const auto finite = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112F);
  const std::uint32_t special = magnitude | 0x70000000U;  // infinity and NaN
  return std::bit_cast<float>(sign | (magnitude >= 0x0f800000U ? special : finite));
}

template <class T>
T round_to(float value);

template <>
NIBBLE_HD float round_to<float>(float value) {
  return value;
}

template <>
NIBBLE_HD BFloat16 round_to<BFloat16>(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return {static_cast<std::uint16_t>((bits >> 16) | 0x40U)};  // quiet NaN
  return {static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16)};
}

template <>
NIBBLE_HD Half round_to<Half>(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000U);
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) return {static_cast<std::uint16_t>(sign | 0x7e00U)};
  if (magnitude >= 0x47800000U) return {static_cast<std::uint16_t>(sign | 0x7c00U)};  // 65536 and above
  if (magnitude < 0x38800000U) {
    // Below 2^-14 the result is subnormal: adding 0.5 lines its last bit up with fp32's, and the addition rounds.
    const auto shifted = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5F);
    return {static_cast<std::uint16_t>(sign | (shifted - 0x3f000000U))};
  }
  return {static_cast<std::uint16_t>(sign | ((magnitude - 0x38000000U + 0xfffU + ((magnitude >> 13) & 1U)) >> 13))};
}

/// The value `value` becomes when it is stored as T.
template <class T>
NIBBLE_HD float rounded(float value) {
  return to_float(round_to<T>(value));
}

template <class T>
inline constexpr DType kDTypeOf = DType::kF32;
template <>
inline constexpr DType kDTypeOf<Half> = DType::kF16;
template <>
inline constexpr DType kDTypeOf<BFloat16> = DType::kBF16;

}  // namespace nibble
