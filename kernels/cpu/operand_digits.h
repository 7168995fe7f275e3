// The part of 64 factors of w as bytes, whole numbers of -16 to 15, for words of x in two digits of 256, whose products
// AVX-512 VNNI adds up in fours in one instruction (VPDPBUSD). Sums are exact, so the same as of words. Included after
// operand_words.h.
#pragma once

namespace nibble {
namespace {

/// Sums by the upper and by the lower digits of x.
struct DigitSums {
  __m512i upper, lower;
};

struct Digits64 {
  using Element = std::int8_t;
  using Sums = DigitSums;
  static constexpr bool kWhole = true;
  /// Of a packed group of x: upper and lower digits, then for each lane what its sum is multiplied by, and begins with.
  static constexpr int kGroupElements = 2 * kGroup + 2 * 64;
  /// What makes a factor an unsigned byte.
  static constexpr int kBias = 16;
  struct Table {
    __m512i levels;  ///< four times, biased: a look-up uses six bits of a byte, of which two are the neighbour's
  };
  __m512i bytes;  ///< biased

  /// Part p of a group of 4-bit codes is one nibble of each byte, low, high. Lane i has factors i, i + 16, ...
  NIBBLE_HD static constexpr int place_of_code(int i) { return (i % 2 ^ 1) * 64 + i % 8 / 2 * 16 + i / 8; }
};

template <>
constexpr int kPartOf<Digits64> = 64;

/// Four whole numbers of a byte for each lane, of which the first are in lanes[0].
NIBBLE_HD __m512i bytes_of(const __m512i (&lanes)[4]) {
  const __m512i byte = _mm512_set1_epi32(0xff);
  __m512i bytes = _mm512_setzero_si512();
  for (int i = 3; i >= 0; --i) bytes = _mm512_or_si512(_mm512_slli_epi32(bytes, 8), _mm512_and_si512(lanes[i], byte));
  return bytes;
}

template <>
NIBBLE_HD Digits64 load_operand<Digits64>(const std::int8_t* packed) {
  return {_mm512_loadu_si512(packed)};
}

template <>
NIBBLE_HD void store_group<Digits64>(std::int8_t* packed, const float* values) {
  for (int part = 0; part < kGroup; part += 64) {
    __m512i lanes[4];
    for (int i = 0; i < 4; ++i) {
      const __m512i whole = _mm512_cvtps_epi32(_mm512_loadu_ps(values + part + 16 * i));
      lanes[i] = _mm512_add_epi32(whole, _mm512_set1_epi32(Digits64::kBias));
    }
    _mm512_storeu_si512(packed + part, bytes_of(lanes));
  }
}

template <>
NIBBLE_HD Digits64::Table make_table<Digits64>(const float* levels) {
  const __m512i whole = _mm512_cvtps_epi32(_mm512_loadu_ps(levels));
  const __m512i biased = _mm512_add_epi32(whole, _mm512_set1_epi32(Digits64::kBias));
  return {_mm512_broadcast_i32x4(_mm512_cvtepi32_epi8(biased))};
}
template <>
NIBBLE_HD Digits64 lookup_codes<Digits64>(const Digits64::Table& table, const std::uint8_t* codes, int part) {
  const __m512i nibbles = _mm512_srli_epi16(_mm512_loadu_si512(codes), static_cast<unsigned>(4 * part));
  return {_mm512_permutexvar_epi8(nibbles, table.levels)};
}

/// Of whole numbers.
NIBBLE_HD Digits64 subtract(const Digits64& v, const F32x16& lanes) {
  const __m512i lowest_of_lane = _mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0);
  return {_mm512_sub_epi8(v.bytes, _mm512_shuffle_epi8(_mm512_cvtps_epi32(lanes.lanes), lowest_of_lane))};
}
NIBBLE_HD Digits64::Table subtract(const Digits64::Table& table, int number) {
  return {_mm512_sub_epi8(table.levels, _mm512_set1_epi8(static_cast<char>(number)))};
}

/// The digits of a part's factors: the upper ones have a sign, the lower ones none.
struct Digits {
  __m512i upper, lower;
};
template <>
NIBBLE_HD auto load_factors<Digits64>(const std::int8_t* group, int part) {
  return Digits{_mm512_loadu_si512(group + part * 64), _mm512_loadu_si512(group + kGroup + part * 64)};
}

NIBBLE_HD DigitSums accumulate(const DigitSums& total, const Digits64& w, const Digits& x) {
  return {_mm512_dpbusd_epi32(total.upper, w.bytes, x.upper), _mm512_dpbusd_epi32(total.lower, x.lower, w.bytes)};
}

/// As words are.
template <>
NIBBLE_HD void pack_factors<Digits64>(std::int8_t* packed, const float* values, float unit) {
  float factors[kGroup];
  const __m512 scales = make_whole(values, unit, factors);
  __m512i sum = _mm512_setzero_si512();
  for (int part = 0; part < kGroup; part += 64) {
    __m512i upper[4], lower[4];
    for (int i = 0; i < 4; ++i) {
      lower[i] = _mm512_cvtps_epi32(_mm512_loadu_ps(factors + part + 16 * i));
      upper[i] = _mm512_srai_epi32(lower[i], 8);
      sum = _mm512_add_epi32(sum, lower[i]);
    }
    _mm512_storeu_si512(packed + part, bytes_of(upper));
    _mm512_storeu_si512(packed + kGroup + part, bytes_of(lower));
  }
  _mm512_storeu_ps(packed + 2 * kGroup, scales);
  const __m512i of_bias = _mm512_mullo_epi32(sum, _mm512_set1_epi32(Digits64::kBias));
  _mm512_storeu_si512(packed + 2 * kGroup + 64, _mm512_sub_epi32(_mm512_setzero_si512(), of_bias));
}

NIBBLE_HD F32x16 scales_of(const std::int8_t* packed) { return {_mm512_loadu_ps(packed + 2 * kGroup)}; }
template <>
NIBBLE_HD DigitSums first_sums<Digits64>(const std::int8_t* packed) {
  return {_mm512_setzero_si512(), _mm512_loadu_si512(packed + 2 * kGroup + 64)};
}
NIBBLE_HD F32x16 to_f32(const DigitSums& sums) {
  return {_mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(sums.upper, 8), sums.lower))};
}

}  // namespace
}  // namespace nibble
