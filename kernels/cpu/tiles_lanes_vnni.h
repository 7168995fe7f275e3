// Tiles in registers whose words are four bytes. Included after tiles_lanes.h.
#pragma once

namespace nibble {
namespace {

/// VPDPBUSD multiplies unsigned by signed bytes, so those of w are taken kWeightOffset larger, and sums are off by as
/// many times those of x.
template <int kDigitsOfX>
struct ByteTiles : LaneTiles {
  using Element = std::int8_t;
  using Sums = I32x16;
  using Sum = std::int32_t;
  static constexpr int kDigits = kDigitsOfX, kBlockLines = 8, kWeightOffset = 128;
  NIBBLE_HD static __m512i load_line(const char* line) { return _mm512_loadu_si512(line); }
  NIBBLE_HD static __m512i spread_word(const char* word) {
    return _mm512_set1_epi32(*reinterpret_cast<const std::int32_t*>(word));
  }
  NIBBLE_HD static I32x16 accumulate(const I32x16& sums, __m512i w, __m512i x) {
    return {_mm512_dpbusd_epi32(sums.lanes, w, x)};
  }
};

}  // namespace
}  // namespace nibble
