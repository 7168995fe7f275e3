// The part of 32 factors as words of 16 bits, whole numbers, whose products AVX-512 VNNI adds up in pairs in one
// instruction (VPDPWSSD) and one in two operations of fp32's. Included after operand.h.
#pragma once

namespace nibble {
namespace {

struct I16x32 {
  using Element = std::int16_t;
  using Sums = I32x16;
  static constexpr bool kWhole = true;
  /// Elements of a packed group of x: the factors, then what the sum of each lane is multiplied by.
  static constexpr int kGroupElements = kGroup + 32;
  struct Table {
    __m512i levels;  ///< twice: a look-up uses five bits of a word, of which one is the neighbour's
  };
  __m512i words;

  /// Part p of a group of 4-bit codes is one nibble of each pair of bytes, in the order low, high, low, high. Lane i
  /// has factors i and i + 16.
  NIBBLE_HD static constexpr int place_of_code(int i) { return (i % 4 ^ 1) * kPart + i / 4 % 2 * 16 + i / 8; }
  NIBBLE_HD static constexpr int place_of_byte(int i) { return i / kPart * kPart + i % 2 * 16 + i % kPart / 2; }
};

/// Rounds to whole numbers, which have to have 16 bits.
template <>
NIBBLE_HD I16x32 make_operand<I16x32>(const F32x16& first, const F32x16& second) {
  const __m512i upper = _mm512_slli_epi32(_mm512_cvtps_epi32(second.lanes), 16);
  return {_mm512_mask_mov_epi16(upper, 0x55555555, _mm512_cvtps_epi32(first.lanes))};
}

template <>
NIBBLE_HD I16x32 load_operand<I16x32>(const std::int16_t* packed) {
  return {_mm512_loadu_si512(packed)};
}

NIBBLE_HD void store_operand(std::int16_t* packed, const I16x32& v) { _mm512_storeu_si512(packed, v.words); }

template <>
NIBBLE_HD I16x32::Table make_table<I16x32>(const float* levels) {
  const __m512i words = _mm512_cvtps_epi32(_mm512_loadu_ps(levels));
  return {_mm512_broadcast_i64x4(_mm512_cvtepi32_epi16(words))};
}
template <>
NIBBLE_HD I16x32 lookup_codes<I16x32>(const I16x32::Table& table, const std::uint8_t* codes, int part) {
  const __m512i nibbles = _mm512_srli_epi16(_mm512_loadu_si512(codes), static_cast<unsigned>(4 * part));
  return {_mm512_permutexvar_epi16(nibbles, table.levels)};
}

template <>
NIBBLE_HD I16x32 load_bytes<I16x32>(const std::int8_t* bytes, int part) {
  return {_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + part * kPart)))};
}

/// Of whole numbers.
NIBBLE_HD I16x32 subtract(const I16x32& v, const F32x16& lanes) {
  return {_mm512_sub_epi16(v.words, make_operand<I16x32>(lanes, lanes).words)};
}
NIBBLE_HD I16x32::Table subtract(const I16x32::Table& table, int number) {
  return {_mm512_sub_epi16(table.levels, _mm512_set1_epi16(static_cast<short>(number)))};
}

NIBBLE_HD I32x16 accumulate(const I32x16& total, const I16x32& w, const I16x32& x) {
  return {_mm512_dpwssd_epi32(total.lanes, w.words, x.words)};
}

/// A lane's eight factors times a power of two that gives the largest of them 14 bits: with factors of w of up to 2^14
/// eight products have 31. Returns what the lanes' sums are multiplied by. What is not finite makes its lane NaN.
NIBBLE_HD __m512 make_whole(const float* values, float unit, float* factors) {
  __m512i magnitudes = _mm512_setzero_si512();
  for (int i = 0; i < kGroup; i += 16) {
    const __m512 magnitude = _mm512_abs_ps(_mm512_loadu_ps(values + i));
    magnitudes = _mm512_max_epi32(magnitudes, _mm512_castps_si512(magnitude));  // as whole numbers NaNs are the largest
  }
  const __m512 largest = _mm512_castsi512_ps(magnitudes);
  const __m512 least = _mm512_set1_ps(0x1p-90F);  // below it scales would be subnormal
  const __m512 bits = _mm512_sub_ps(_mm512_set1_ps(13), _mm512_getexp_ps(_mm512_max_ps(largest, least)));
  for (int i = 0; i < kGroup; i += 16) {
    _mm512_storeu_ps(factors + i, _mm512_scalef_ps(_mm512_loadu_ps(values + i), bits));
  }
  const __m512 scales = _mm512_scalef_ps(_mm512_set1_ps(1 / unit), _mm512_sub_ps(_mm512_setzero_ps(), bits));
  return _mm512_add_ps(scales, _mm512_sub_ps(largest, largest));
}

template <>
NIBBLE_HD void pack_factors<I16x32>(std::int16_t* packed, const float* values, float unit) {
  float factors[kGroup];
  const __m512 scales = make_whole(values, unit, factors);
  store_group<I16x32>(packed, factors);
  _mm512_storeu_ps(packed + kGroup, scales);
}

/// What the sums of a group's lanes are multiplied by.
NIBBLE_HD F32x16 scales_of(const std::int16_t* packed) { return {_mm512_loadu_ps(packed + kGroup)}; }

}  // namespace
}  // namespace nibble
