// 64 signed bytes of w and of x and the lanes of their product, for AVX-512 without VNNI: as words.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/numeric.h"

namespace nibble {
namespace {

/// Taken onto bytes of w.
constexpr int kByteOffset = 0;

struct Bytes64 {
  __m512i first, second;  ///< as words
};
NIBBLE_HD Bytes64 load_factor_bytes(const std::int8_t* x) {
  const auto* halves = reinterpret_cast<const __m256i*>(x);
  return {_mm512_cvtepi8_epi16(_mm256_loadu_si256(halves)), _mm512_cvtepi8_epi16(_mm256_loadu_si256(halves + 1))};
}
NIBBLE_HD Bytes64 load_weight_bytes(const std::int8_t* w) { return load_factor_bytes(w); }

NIBBLE_HD I32x16 accumulate(const I32x16& total, const Bytes64& w, const Bytes64& x) {
  const __m512i first = _mm512_add_epi32(total.lanes, _mm512_madd_epi16(w.first, x.first));
  return {_mm512_add_epi32(first, _mm512_madd_epi16(w.second, x.second))};
}

}  // namespace
}  // namespace nibble
