// The part of 32 factors as bf16 pairs, which AVX512-BF16 multiplies and adds in one instruction (VDPBF16PS: products
// and their sum in fp32, subnormals taken as zero). Included after operand.h.
#pragma once

namespace nibble {
namespace {

struct Bf16x32 {
  using Element = BFloat16;
  using Sums = F32x16;
  static constexpr bool kWhole = false;
  static constexpr int kGroupElements = kGroup;
  struct Table {
    __m512i levels;  ///< twice: a look-up uses five bits of a word, of which one is the neighbour's
  };
  __m512bh pairs;

  /// Part p of a group of 4-bit codes is one nibble of each pair of bytes, in the order low, high, low, high.
  NIBBLE_HD static constexpr int place_of_code(int i) { return (i % 4 ^ 1) * kPart + i / 4; }
  /// Of 64 bytes, parts are the first and the last eight of each sixteen.
  NIBBLE_HD static constexpr int place_of_byte(int i) {
    return (i / 64 * 2 + i % 16 / 8) * kPart + i % 64 / 16 * 8 + i % 8;
  }
};

/// The lower and the upper bytes of 0 to 127 as bf16, which has them all.
struct MagnitudeBytes {
  alignas(64) std::uint8_t lower[128], upper[128];
  constexpr MagnitudeBytes() : lower(), upper() {
    for (unsigned value = 0; value < 128; ++value) {
      const auto bits = __builtin_bit_cast(std::uint32_t, static_cast<float>(value)) >> 16;
      lower[value] = static_cast<std::uint8_t>(bits);
      upper[value] = static_cast<std::uint8_t>(bits >> 8);
    }
  }
};
constexpr MagnitudeBytes kMagnitudeBytes;

template <>
NIBBLE_HD Bf16x32 make_operand<Bf16x32>(const F32x16& first, const F32x16& second) {
  return {_mm512_cvtne2ps_pbh(second.lanes, first.lanes)};
}

template <>
NIBBLE_HD Bf16x32 load_operand<Bf16x32>(const BFloat16* packed) {
  return {reinterpret_cast<__m512bh>(_mm512_loadu_si512(packed))};
}

NIBBLE_HD void store_operand(BFloat16* packed, const Bf16x32& v) {
  _mm512_storeu_si512(packed, reinterpret_cast<__m512i>(v.pairs));
}

template <>
NIBBLE_HD Bf16x32::Table make_table<Bf16x32>(const float* levels) {
  return {reinterpret_cast<__m512i>(make_operand<Bf16x32>(load(levels), load(levels)).pairs)};
}
template <>
NIBBLE_HD Bf16x32 lookup_codes<Bf16x32>(const Bf16x32::Table& table, const std::uint8_t* codes, int part) {
  const __m512i nibbles = _mm512_srli_epi16(_mm512_loadu_si512(codes), static_cast<unsigned>(4 * part));
  return {reinterpret_cast<__m512bh>(_mm512_permutexvar_epi16(nibbles, table.levels))};
}

/// Magnitudes are looked up in two tables of 128 bytes; -128, which has none there, is 0xc300.
template <>
NIBBLE_HD Bf16x32 load_bytes<Bf16x32>(const std::int8_t* bytes, int part) {
  const __m512i signed_bytes = _mm512_loadu_si512(bytes + part / 2 * 64);
  const __m512i magnitudes = _mm512_abs_epi8(signed_bytes);
  const auto found = [&](const std::uint8_t* table) __attribute__((always_inline)) {
    return _mm512_permutex2var_epi8(_mm512_load_si512(table), magnitudes, _mm512_load_si512(table + 64));
  };
  const __m512i lower = found(kMagnitudeBytes.lower);
  const __mmask64 beyond = _mm512_movepi8_mask(magnitudes);
  const __m512i upper = _mm512_mask_mov_epi8(found(kMagnitudeBytes.upper), beyond, _mm512_set1_epi8(0x43));
  const __m512i with_sign = _mm512_ternarylogic_epi32(upper, signed_bytes, _mm512_set1_epi8(-128), 0xf8);
  return {reinterpret_cast<__m512bh>(part % 2 == 0 ? _mm512_unpacklo_epi8(lower, with_sign)
                                                   : _mm512_unpackhi_epi8(lower, with_sign))};
}

/// Of whole numbers that leave some whose last bits bf16 has: nothing is rounded.
NIBBLE_HD Bf16x32 subtract(const Bf16x32& v, const F32x16& lanes) {
  const auto bits = reinterpret_cast<__m512i>(v.pairs);
  const __m512i upper_half = _mm512_set1_epi32(static_cast<int>(0xffff0000U));
  const __m512 lower = _mm512_sub_ps(_mm512_castsi512_ps(_mm512_slli_epi32(bits, 16)), lanes.lanes);
  const __m512 upper = _mm512_sub_ps(_mm512_castsi512_ps(_mm512_and_si512(bits, upper_half)), lanes.lanes);
  return {reinterpret_cast<__m512bh>(
      _mm512_or_si512(_mm512_srli_epi32(_mm512_castps_si512(lower), 16), _mm512_castps_si512(upper)))};
}
NIBBLE_HD Bf16x32::Table subtract(const Bf16x32::Table& table, int number) {
  const Bf16x32 levels{reinterpret_cast<__m512bh>(table.levels)};
  return {reinterpret_cast<__m512i>(subtract(levels, broadcast(static_cast<float>(number))).pairs)};
}

NIBBLE_HD F32x16 accumulate(const F32x16& total, const Bf16x32& w, const Bf16x32& x) {
  return {_mm512_dpbf16_ps(total.lanes, w.pairs, x.pairs)};
}

}  // namespace
}  // namespace nibble
