// Sixteen lanes, fp32 and whole, in one AVX-512 register.
#pragma once

// GCC 12 takes its own headers' "undefined" registers for mistakes (its bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop

#include "kernels/numeric.h"

namespace nibble {
namespace {

struct F32x16 {
  __m512 lanes;
};

NIBBLE_HD F32x16 broadcast(float value) { return {_mm512_set1_ps(value)}; }
NIBBLE_HD F32x16 broadcast(Half value) { return {_mm512_cvtph_ps(_mm256_set1_epi16(static_cast<short>(value.bits)))}; }

NIBBLE_HD F32x16 load(const float* values) { return {_mm512_loadu_ps(values)}; }
NIBBLE_HD F32x16 load(const Half* values) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values)))};
}
NIBBLE_HD F32x16 load(const BFloat16* values) {
  const __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values)));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(words, 16))};
}
NIBBLE_HD F32x16 load(const std::int8_t* values) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values))))};
}

NIBBLE_HD void store(float* values, const F32x16& v) { _mm512_storeu_ps(values, v.lanes); }
NIBBLE_HD void store(Half* values, const F32x16& v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(values), _mm512_cvtps_ph(v.lanes, _MM_FROUND_TO_NEAREST_INT));
}
NIBBLE_HD void store(BFloat16* values, const F32x16& v) {
  const __m512i bits = _mm512_castps_si512(v.lanes);
  const __m512i upper = _mm512_srli_epi32(bits, 16);
  const __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
  const __m512i nearest =
      _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd), 16);
  const __mmask16 is_nan = _mm512_cmp_ps_mask(v.lanes, v.lanes, _CMP_UNORD_Q);
  const __m512i words = _mm512_mask_or_epi32(nearest, is_nan, upper, _mm512_set1_epi32(0x40));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(values), _mm512_cvtepi32_epi16(words));
}

NIBBLE_HD F32x16 operator+(const F32x16& a, const F32x16& b) { return {_mm512_add_ps(a.lanes, b.lanes)}; }
NIBBLE_HD F32x16 operator-(const F32x16& a, const F32x16& b) { return {_mm512_sub_ps(a.lanes, b.lanes)}; }
NIBBLE_HD F32x16 operator*(const F32x16& a, const F32x16& b) { return {_mm512_mul_ps(a.lanes, b.lanes)}; }
/// a * b + c
NIBBLE_HD F32x16 fma(const F32x16& a, const F32x16& b, const F32x16& c) {
  return {_mm512_fmadd_ps(a.lanes, b.lanes, c.lanes)};
}
/// b where a is NaN
NIBBLE_HD F32x16 max(const F32x16& a, const F32x16& b) { return {_mm512_max_ps(a.lanes, b.lanes)}; }

NIBBLE_HD float sum(const F32x16& v) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v.lanes), _mm512_extractf32x8_ps(v.lanes, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/// For sixteen vectors, vector(0) to vector(15), the sums of their lanes by the additions of `sum`.
template <class Vector, class Add>
NIBBLE_HD __m512 sums_by(Vector&& vector, Add&& add) {
  const auto halves_of = [&](__m512 a, __m512 b) __attribute__((always_inline)) {  // eight lanes of each
    return add(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  };
  const auto quarters_of = [&](__m512 a, __m512 b) __attribute__((always_inline)) {  // four of each half
    return add(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  };
  const auto pairs_of = [&](__m512 a, __m512 b) __attribute__((always_inline)) {
    const __m512d da = _mm512_castps_pd(a);
    const __m512d db = _mm512_castps_pd(b);
    return add(_mm512_castpd_ps(_mm512_unpacklo_pd(da, db)), _mm512_castpd_ps(_mm512_unpackhi_pd(da, db)));
  };
  __m512 four[4];
  for (int i = 0; i < 4; ++i) {
    four[i] = quarters_of(halves_of(vector(i), vector(i + 8)), halves_of(vector(i + 4), vector(i + 12)));
  }
  const __m512 even = pairs_of(four[0], four[2]);
  const __m512 odd = pairs_of(four[1], four[3]);
  const __m512 result = add(_mm512_shuffle_ps(even, odd, 0x88), _mm512_shuffle_ps(even, odd, 0xdd));
  const __m512i order = _mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);
  return _mm512_permutexvar_ps(order, result);
}

/// sum(v[i]) in lane i.
NIBBLE_HD F32x16 sums(const F32x16 (&v)[16]) {
  return {sums_by(
      [&](int i) __attribute__((always_inline)) { return v[i].lanes; },
      [](__m512 a, __m512 b) __attribute__((always_inline)) { return _mm512_add_ps(a, b); })};
}

/// Sixteen lines of sixteen 32-bit words, `stride` bytes apart, as columns. Of each four neighbouring words of a line
/// it is each(four lines' words) that become columns.
template <class Each>
NIBBLE_HD void transpose_words(const void* lines, std::ptrdiff_t stride, __m512i (&columns)[16], Each&& each) {
  for (int quarter = 0; quarter < 4; ++quarter) {
    __m512i four[4];  // each 128 bits of lines i, i + 4, i + 8, i + 12
    for (int i = 0; i < 4; ++i) {
      const auto at = [&](int line) __attribute__((always_inline)) {
        return _mm_loadu_si128(
            reinterpret_cast<const __m128i*>(static_cast<const char*>(lines) + line * stride + 16 * quarter));
      };
      four[i] = _mm512_castsi128_si512(at(i));
      four[i] = _mm512_inserti32x4(four[i], at(i + 4), 1);
      four[i] = _mm512_inserti32x4(four[i], at(i + 8), 2);
      four[i] = _mm512_inserti32x4(four[i], at(i + 12), 3);
      four[i] = each(four[i]);
    }
    const __m512i low[2] = {_mm512_unpacklo_epi32(four[0], four[1]), _mm512_unpacklo_epi32(four[2], four[3])};
    const __m512i high[2] = {_mm512_unpackhi_epi32(four[0], four[1]), _mm512_unpackhi_epi32(four[2], four[3])};
    columns[4 * quarter] = _mm512_unpacklo_epi64(low[0], low[1]);
    columns[4 * quarter + 1] = _mm512_unpackhi_epi64(low[0], low[1]);
    columns[4 * quarter + 2] = _mm512_unpacklo_epi64(high[0], high[1]);
    columns[4 * quarter + 3] = _mm512_unpackhi_epi64(high[0], high[1]);
  }
}

/// The same, written one behind the other.
NIBBLE_HD void transpose_words(const void* lines, std::ptrdiff_t stride, char* to) {
  __m512i columns[16];
  transpose_words(
      lines, stride, columns, [](__m512i four) __attribute__((always_inline)) { return four; });
  for (int i = 0; i < 16; ++i) _mm512_storeu_si512(to + i * 64, columns[i]);
}

/// columns[i] has number i of sixteen rows of sixteen, one behind the other.
NIBBLE_HD void transpose(const float* rows, F32x16 (&columns)[16]) {
  __m512i words[16];
  transpose_words(
      rows, 64, words, [](__m512i four) __attribute__((always_inline)) { return four; });
  for (int i = 0; i < 16; ++i) columns[i] = {_mm512_castsi512_ps(words[i])};
}

/// 2^n for whole n, -126 to 127
NIBBLE_HD F32x16 power_of_two(const F32x16& n) {
  const __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n.lanes), _mm512_set1_epi32(127));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23))};
}

/// Lanes 0 to 7 and 8 to 15: in halves_blended.h or halves_embedded.h.
NIBBLE_HD F32x16 halves(float first, float second);

/// Lanes 0 to 3, 4 to 7, 8 to 11 and 12 to 15.
NIBBLE_HD F32x16 quarters(float first, float second, float third, float fourth) {
  return {_mm512_mask_mov_ps(halves(first, third).lanes, 0xf0f0, halves(second, fourth).lanes)};
}

/// Lanes of a magnitude below a limit, zero elsewhere, and a bit for each of the others, NaNs among them.
struct Inside {
  F32x16 values;
  std::uint32_t others;
};
NIBBLE_HD Inside inside(const F32x16& v, float limit) {
  const __mmask16 below = _mm512_cmp_ps_mask(_mm512_abs_ps(v.lanes), _mm512_set1_ps(limit), _CMP_LT_OQ);
  return {{_mm512_maskz_mov_ps(below, v.lanes)}, below ^ 0xffffU};
}

/// The lowest byte of each lane.
NIBBLE_HD void store_low_bytes(std::int8_t* bytes, const F32x16& v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes), _mm512_cvtepi32_epi8(_mm512_castps_si512(v.lanes)));
}

/// Sixteen whole numbers.
struct I32x16 {
  __m512i lanes;
};
NIBBLE_HD I32x16 load(const std::int32_t* values) { return {_mm512_loadu_si512(values)}; }
NIBBLE_HD void store(std::int32_t* values, const I32x16& v) { _mm512_storeu_si512(values, v.lanes); }
NIBBLE_HD I32x16 operator+(const I32x16& a, const I32x16& b) { return {_mm512_add_epi32(a.lanes, b.lanes)}; }
NIBBLE_HD I32x16 operator-(const I32x16& a, const I32x16& b) { return {_mm512_sub_epi32(a.lanes, b.lanes)}; }
NIBBLE_HD I32x16 sums(const I32x16 (&v)[16]) {
  return {_mm512_castps_si512(sums_by(
      [&](int i) __attribute__((always_inline)) { return _mm512_castsi512_ps(v[i].lanes); },
      [](__m512 a, __m512 b) __attribute__((always_inline)) {
        return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
      }))};
}
NIBBLE_HD F32x16 to_f32(const I32x16& v) { return {_mm512_cvtepi32_ps(v.lanes)}; }

/// Sixteen 32-bit words of 4-bit codes.
struct Words {
  __m512i words;
};

NIBBLE_HD Words load_words(const std::uint8_t* bytes) { return {_mm512_loadu_si512(bytes)}; }
/// table[nibble `index` of each word, from the lowest]; the instruction itself ignores the other bits.
NIBBLE_HD F32x16 lookup(const F32x16& table, const Words& w, int index) {
  return {_mm512_permutexvar_ps(_mm512_srli_epi32(w.words, static_cast<unsigned>(4 * index)), table.lanes)};
}

}  // namespace
}  // namespace nibble
