// Sixteen lanes, fp32 and whole, in two AVX2 registers.
#pragma once

#include <immintrin.h>

#include "kernels/numeric.h"

namespace nibble {
namespace {

struct F32x16 {
  __m256 low, high;
};

NIBBLE_HD F32x16 broadcast(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
NIBBLE_HD F32x16 broadcast(Half value) {
  const __m256 lanes = _mm256_cvtph_ps(_mm_set1_epi16(static_cast<short>(value.bits)));
  return {lanes, lanes};
}

NIBBLE_HD __m256i words(const void* values) {
  return _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(values)));
}
NIBBLE_HD __m256 bytes_to_floats(const std::int8_t* values) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(values))));
}

NIBBLE_HD F32x16 load(const float* values) { return {_mm256_loadu_ps(values), _mm256_loadu_ps(values + 8)}; }
NIBBLE_HD F32x16 load(const Half* values) {
  const auto* v = reinterpret_cast<const __m128i*>(values);
  return {_mm256_cvtph_ps(_mm_loadu_si128(v)), _mm256_cvtph_ps(_mm_loadu_si128(v + 1))};
}
NIBBLE_HD F32x16 load(const BFloat16* values) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(words(values), 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(words(values + 8), 16))};
}
NIBBLE_HD F32x16 load(const std::int8_t* values) { return {bytes_to_floats(values), bytes_to_floats(values + 8)}; }

/// The upper halves of the lanes, rounded to nearest even, as 32-bit numbers.
NIBBLE_HD __m256i rounded_upper_halves(__m256 v) {
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i upper = _mm256_srli_epi32(bits, 16);
  const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
  const __m256i nearest =
      _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
  const __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
  return _mm256_blendv_epi8(nearest, quiet, _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)));
}

NIBBLE_HD void store(float* values, const F32x16& v) {
  _mm256_storeu_ps(values, v.low);
  _mm256_storeu_ps(values + 8, v.high);
}
NIBBLE_HD void store(Half* values, const F32x16& v) {
  auto* out = reinterpret_cast<__m128i*>(values);
  _mm_storeu_si128(out, _mm256_cvtps_ph(v.low, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(out + 1, _mm256_cvtps_ph(v.high, _MM_FROUND_TO_NEAREST_INT));
}
NIBBLE_HD void store(BFloat16* values, const F32x16& v) {
  const __m256i packed = _mm256_packus_epi32(rounded_upper_halves(v.low), rounded_upper_halves(v.high));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(values), _mm256_permute4x64_epi64(packed, 0b11'01'10'00));
}

NIBBLE_HD F32x16 operator+(const F32x16& a, const F32x16& b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
NIBBLE_HD F32x16 operator-(const F32x16& a, const F32x16& b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
NIBBLE_HD F32x16 operator*(const F32x16& a, const F32x16& b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
/// a * b + c
NIBBLE_HD F32x16 fma(const F32x16& a, const F32x16& b, const F32x16& c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
/// b where a is NaN
NIBBLE_HD F32x16 max(const F32x16& a, const F32x16& b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}

NIBBLE_HD float sum(const F32x16& v) {
  const __m256 eight = _mm256_add_ps(v.low, v.high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/// sum(v[i]) in lane i.
NIBBLE_HD F32x16 sums(const F32x16 (&v)[16]) {
  float result[16];
  for (int i = 0; i < 16; ++i) result[i] = sum(v[i]);
  return load(result);
}

/// Eight numbers of eight rows of sixteen as columns: `column(i)` is where number i of all goes.
template <class Column>
NIBBLE_HD void transpose_eight(const float* rows, Column&& column) {
  const auto row = [&](int r) __attribute__((always_inline)) { return _mm256_loadu_ps(rows + 16 * r); };
  __m256 four[8];  // of lanes 0 to 3 and 4 to 7: for rows 0 to 3 and then 4 to 7 their first, second, third, fourth
  for (int r = 0; r < 8; r += 4) {
    const __m256 low[2] = {_mm256_unpacklo_ps(row(r), row(r + 1)), _mm256_unpacklo_ps(row(r + 2), row(r + 3))};
    const __m256 high[2] = {_mm256_unpackhi_ps(row(r), row(r + 1)), _mm256_unpackhi_ps(row(r + 2), row(r + 3))};
    four[r] = _mm256_shuffle_ps(low[0], low[1], 0x44);
    four[r + 1] = _mm256_shuffle_ps(low[0], low[1], 0xee);
    four[r + 2] = _mm256_shuffle_ps(high[0], high[1], 0x44);
    four[r + 3] = _mm256_shuffle_ps(high[0], high[1], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    column(i) = _mm256_permute2f128_ps(four[i], four[4 + i], 0x20);
    column(4 + i) = _mm256_permute2f128_ps(four[i], four[4 + i], 0x31);
  }
}

/// columns[i] has number i of sixteen rows of sixteen, one behind the other.
NIBBLE_HD void transpose(const float* rows, F32x16 (&columns)[16]) {
  for (int first = 0; first < 16; first += 8) {
    transpose_eight(
        rows + first, [&](int i) __attribute__((always_inline))->__m256 & { return columns[first + i].low; });
    transpose_eight(
        rows + 128 + first, [&](int i) __attribute__((always_inline))->__m256 & { return columns[first + i].high; });
  }
}

NIBBLE_HD __m256 power_of_two(__m256 n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}
/// 2^n for whole n, -126 to 127
NIBBLE_HD F32x16 power_of_two(const F32x16& n) { return {power_of_two(n.low), power_of_two(n.high)}; }

/// Lanes 0 to 7 and 8 to 15.
NIBBLE_HD F32x16 halves(float first, float second) { return {_mm256_set1_ps(first), _mm256_set1_ps(second)}; }

/// Lanes 0 to 3, 4 to 7, 8 to 11 and 12 to 15.
NIBBLE_HD F32x16 quarters(float first, float second, float third, float fourth) {
  return {_mm256_set_m128(_mm_set1_ps(second), _mm_set1_ps(first)),
          _mm256_set_m128(_mm_set1_ps(fourth), _mm_set1_ps(third))};
}

/// Lanes of a magnitude below a limit, zero elsewhere, and a bit for each of the others, NaNs among them.
struct Inside {
  F32x16 values;
  std::uint32_t others;
};
NIBBLE_HD Inside inside(const F32x16& v, float limit) {
  const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff)), limits = _mm256_set1_ps(limit);
  const __m256 low = _mm256_cmp_ps(_mm256_and_ps(v.low, magnitude), limits, _CMP_LT_OQ);
  const __m256 high = _mm256_cmp_ps(_mm256_and_ps(v.high, magnitude), limits, _CMP_LT_OQ);
  const auto below = static_cast<std::uint32_t>(_mm256_movemask_ps(low) | _mm256_movemask_ps(high) << 8);
  return {{_mm256_and_ps(v.low, low), _mm256_and_ps(v.high, high)}, below ^ 0xffffU};
}

/// The lowest byte of each lane.
NIBBLE_HD void store_low_bytes(std::int8_t* bytes, const F32x16& v) {
  const __m256i lowest = _mm256_set1_epi32(0xff);
  const __m256i words = _mm256_packus_epi32(_mm256_and_si256(_mm256_castps_si256(v.low), lowest),
                                            _mm256_and_si256(_mm256_castps_si256(v.high), lowest));
  const __m256i in_order = _mm256_permute4x64_epi64(words, 0xd8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes),
                   _mm_packus_epi16(_mm256_castsi256_si128(in_order), _mm256_extracti128_si256(in_order, 1)));
}

/// Sixteen whole numbers.
struct I32x16 {
  __m256i low, high;
};
NIBBLE_HD I32x16 load(const std::int32_t* values) {
  const auto* halves = reinterpret_cast<const __m256i*>(values);
  return {_mm256_loadu_si256(halves), _mm256_loadu_si256(halves + 1)};
}
NIBBLE_HD std::int32_t sum(const I32x16& v) {
  const __m256i eight = _mm256_add_epi32(v.low, v.high);
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 1)));
}
NIBBLE_HD I32x16 sums(const I32x16 (&v)[16]) {
  std::int32_t result[16];
  for (int i = 0; i < 16; ++i) result[i] = sum(v[i]);
  return load(result);
}
NIBBLE_HD F32x16 to_f32(const I32x16& v) { return {_mm256_cvtepi32_ps(v.low), _mm256_cvtepi32_ps(v.high)}; }

/// Sixteen 32-bit words of 4-bit codes.
struct Words {
  __m256i low, high;
};

NIBBLE_HD Words load_words(const std::uint8_t* bytes) {
  const auto* words = reinterpret_cast<const __m256i*>(bytes);
  return {_mm256_loadu_si256(words), _mm256_loadu_si256(words + 1)};
}
/// The sign bit of a lane chooses the half of the table, so bit 3 of the nibble is moved there.
NIBBLE_HD __m256 lookup(const F32x16& table, __m256i words) {
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(table.low, words), _mm256_permutevar8x32_ps(table.high, words),
                          _mm256_castsi256_ps(_mm256_slli_epi32(words, 28)));
}
/// table[nibble `index` of each word, from the lowest]
NIBBLE_HD F32x16 lookup(const F32x16& table, const Words& w, int index) {
  return {lookup(table, _mm256_srli_epi32(w.low, 4 * index)), lookup(table, _mm256_srli_epi32(w.high, 4 * index))};
}

}  // namespace
}  // namespace nibble
