// Two numbers spread over a register's halves: broadcast, and blended. Included after simd_avx512.h.
#pragma once

namespace nibble {
namespace {

NIBBLE_HD F32x16 halves(float first, float second) {
  return {_mm512_mask_mov_ps(_mm512_set1_ps(first), 0xff00, _mm512_set1_ps(second))};
}

}  // namespace
}  // namespace nibble
