// Tiles in registers whose words are pairs of bf16. Included after tiles_lanes.h and operand_bf16.h.
#pragma once

namespace nibble {
namespace {

struct Bf16Tiles : LaneTiles {
  using Element = BFloat16;
  using Sums = F32x16;
  using Sum = float;
  static constexpr int kDigits = 1, kBlockLines = 32;
  NIBBLE_HD static Bf16x32 load_line(const char* line) {
    return load_operand<Bf16x32>(reinterpret_cast<const BFloat16*>(line));
  }
  NIBBLE_HD static Bf16x32 spread_word(const char* word) {
    return {reinterpret_cast<__m512bh>(_mm512_set1_epi32(*reinterpret_cast<const std::int32_t*>(word)))};
  }
  NIBBLE_HD static F32x16 accumulate(const F32x16& sums, const Bf16x32& w, const Bf16x32& x) {
    return nibble::accumulate(sums, w, x);
  }
};

}  // namespace
}  // namespace nibble
