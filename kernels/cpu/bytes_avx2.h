// 64 signed bytes of w and of x and the lanes of their product, for AVX2: as words.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/numeric.h"

namespace nibble {
namespace {

/// Taken onto bytes of w.
constexpr int kByteOffset = 0;

struct Bytes64 {
  __m256i words[4];
};
NIBBLE_HD Bytes64 load_factor_bytes(const std::int8_t* x) {
  const auto* quarters = reinterpret_cast<const __m128i*>(x);
  Bytes64 result;
  for (int i = 0; i < 4; ++i) result.words[i] = _mm256_cvtepi8_epi16(_mm_loadu_si128(quarters + i));
  return result;
}
NIBBLE_HD Bytes64 load_weight_bytes(const std::int8_t* w) { return load_factor_bytes(w); }

NIBBLE_HD I32x16 accumulate(const I32x16& total, const Bytes64& w, const Bytes64& x) {
  const auto sum = [&](int i) __attribute__((always_inline)) {
    return _mm256_add_epi32(_mm256_madd_epi16(w.words[i], x.words[i]),
                            _mm256_madd_epi16(w.words[i + 1], x.words[i + 1]));
  };
  return {_mm256_add_epi32(total.low, sum(0)), _mm256_add_epi32(total.high, sum(2))};
}

}  // namespace
}  // namespace nibble
