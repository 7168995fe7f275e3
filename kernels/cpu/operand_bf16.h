// The part of 32 factors as bf16 pairs, which AVX512-BF16 multiplies and adds in one instruction (VDPBF16PS: products
// and their sum in fp32, subnormals taken as zero). Included after operand.h.
#pragma once

namespace nibble {
namespace {

struct Bf16x32 {
  using Element = BFloat16;
  __m512bh pairs;

  /// Part p of a group of 4-bit codes is one nibble of each pair of bytes, in the order low, high, low, high.
  NIBBLE_HD static constexpr int place_of_code(int i) { return (i % 4 ^ 1) * kPart + i / 4; }
};

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

/// The lookup uses five bits of a word, of which one is the neighbour's: the table holds the levels twice.
template <>
NIBBLE_HD Bf16x32 lookup_codes<Bf16x32>(const float* levels, const std::uint8_t* codes, int part) {
  const auto table = reinterpret_cast<__m512i>(make_operand<Bf16x32>(load(levels), load(levels)).pairs);
  const __m512i nibbles = _mm512_srli_epi16(_mm512_loadu_si512(codes), static_cast<unsigned>(4 * part));
  return {reinterpret_cast<__m512bh>(_mm512_permutexvar_epi16(nibbles, table))};
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

NIBBLE_HD F32x16 accumulate(const F32x16& total, const Bf16x32& w, const Bf16x32& x) {
  return {_mm512_dpbf16_ps(total.lanes, w.pairs, x.pairs)};
}

}  // namespace
}  // namespace nibble
