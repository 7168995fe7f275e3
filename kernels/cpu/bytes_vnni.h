// 64 signed bytes of w and of x and the lanes of their product, for AVX-512 with VNNI: VPDPBUSD multiplies unsigned by
// signed bytes, so bytes of w are taken 128 larger, and a lane begins with what that adds to it taken off.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/numeric.h"

namespace nibble {
namespace {

/// Taken onto bytes of w.
constexpr int kByteOffset = 128;

struct Bytes64 {
  __m512i bytes;
};
NIBBLE_HD Bytes64 load_weight_bytes(const std::int8_t* w) {
  return {_mm512_xor_si512(_mm512_loadu_si512(w), _mm512_set1_epi8(-128))};
}
NIBBLE_HD Bytes64 load_factor_bytes(const std::int8_t* x) { return {_mm512_loadu_si512(x)}; }

NIBBLE_HD I32x16 accumulate(const I32x16& total, const Bytes64& w, const Bytes64& x) {
  return {_mm512_dpbusd_epi32(total.lanes, w.bytes, x.bytes)};
}

}  // namespace
}  // namespace nibble
