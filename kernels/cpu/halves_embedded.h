// The same for AMD's Zen 4, where broadcasting a number from memory to 512 bits takes a unit that look-ups need, and an
// operation on any unit, like OR, broadcasts its operand on the way (measured: NOTES, 2026-11-30). Included after
// simd_avx512.h.
#pragma once

namespace nibble {
namespace {

NIBBLE_HD F32x16 halves(float first, float second) {
  __m512i nothing = _mm512_setzero_si512();
  asm("" : "+v"(nothing));  // for all that the compiler knows
  const auto spread = [](float value) __attribute__((always_inline)) {
    return _mm512_set1_epi32(__builtin_bit_cast(int, value));
  };
  const __m512i all = _mm512_or_si512(nothing, spread(first));
  return {_mm512_castsi512_ps(_mm512_mask_or_epi32(all, 0xff00, nothing, spread(second)))};
}

}  // namespace
}  // namespace nibble
