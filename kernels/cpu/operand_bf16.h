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

NIBBLE_HD F32x16 accumulate(const F32x16& total, const Bf16x32& w, const Bf16x32& x) {
  return {_mm512_dpbf16_ps(total.lanes, w.pairs, x.pairs)};
}

}  // namespace
}  // namespace nibble
