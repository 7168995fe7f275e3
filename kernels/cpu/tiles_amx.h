// Tiles of AMX: sixteen rows of 64 bytes each. Tiles 0 to 3 hold sums, 4 and 5 rows of w, 6 and 7 rows of x as columns.
// Included after operand_bf16.h.
#pragma once

namespace nibble {
namespace {

constexpr int kTile = 16;
constexpr int kTileLine = 64;
constexpr int kTileBytes = kTile * kTileLine;

/// What LDTILECFG reads.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t line_bytes[16] = {};
  std::uint8_t rows[16] = {};
};

/// GCC's intrinsics do not say that they read memory.
NIBBLE_HD void memory_is_as_written() { asm volatile("" ::: "memory"); }

/// From here on this thread has tiles, until it has no more. No destructor does that: the object must not need the
/// symbols that stand for exceptions.
NIBBLE_HD void begin_tiles() {
  TileConfig config;
  for (int i = 0; i < 8; ++i) {
    config.line_bytes[i] = kTileLine;
    config.rows[i] = kTile;
  }
  memory_is_as_written();
  _tile_loadconfig(&config);
}
NIBBLE_HD void end_tiles() { _tile_release(); }

/// A number as a sum of bf16: its rounding, that of what is left, and so on. Three terms have all 24 bits of fp32, two
/// all 11 of fp16. What is not finite, or rounds to that, leaves NaNs.
template <int kTerms>
NIBBLE_HD void split(const F32x16& first, const F32x16& second, Bf16x32 (&terms)[kTerms]) {
  F32x16 left[2] = {first, second};
  for (int i = 0; i < kTerms; ++i) {
    terms[i] = make_operand<Bf16x32>(left[0], left[1]);
    const auto bits = reinterpret_cast<__m512i>(terms[i].pairs);
    const auto widened = [](__m256i half) __attribute__((always_inline)) {
      return F32x16{_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
    };
    left[0] = left[0] - widened(_mm512_castsi512_si256(bits));
    left[1] = left[1] - widened(_mm512_extracti64x4_epi64(bits, 1));
  }
}

/// What tiles hold: to sums of 16 rows of w by 16 of x the products of a line of each are added. kW and kX: which of
/// the tiles of w and of x. In bf16, of each line pairs' first and second products are added up apart, then both
/// together. A line of x has kTerms terms, one of w no more. The product of terms i and j is left out from i + j =
/// kTerms on: below 2^-16 of the whole for two terms, below 2^-23 for three. Sums of bytes are whole, and those
/// of each of kDigits digits apart.
template <int kOfWeight, int kTerms>
struct Bf16Tiles {
  using Element = BFloat16;
  static constexpr int kWeightTerms = kOfWeight, kFactorTerms = kTerms, kDigits = 1;
  template <int kW, int kX>
  NIBBLE_HD static void multiply() {
    if constexpr (kW == 0 && kX == 0) _tile_dpbf16ps(0, 4, 6);
    if constexpr (kW == 0 && kX == 1) _tile_dpbf16ps(1, 4, 7);
    if constexpr (kW == 1 && kX == 0) _tile_dpbf16ps(2, 5, 6);
    if constexpr (kW == 1 && kX == 1) _tile_dpbf16ps(3, 5, 7);
  }
};
template <int kDigitsOfX>
struct ByteTiles {
  using Element = std::int8_t;
  static constexpr int kWeightTerms = 1, kFactorTerms = 1, kDigits = kDigitsOfX;
  template <int kW, int kX>
  NIBBLE_HD static void multiply() {
    if constexpr (kW == 0 && kX == 0) _tile_dpbssd(0, 4, 6);
    if constexpr (kW == 0 && kX == 1) _tile_dpbssd(1, 4, 7);
    if constexpr (kW == 1 && kX == 0) _tile_dpbssd(2, 5, 6);
    if constexpr (kW == 1 && kX == 1) _tile_dpbssd(3, 5, 7);
  }
};

/// Groups of multiplications for one line.
template <class Tiles>
constexpr int kLineProducts = Tiles::kWeightTerms*(2 * Tiles::kFactorTerms - Tiles::kWeightTerms + 1) / 2;

/// Places `stride` bytes apart.
template <class Byte>
struct Strided {
  Byte* first;
  std::ptrdiff_t stride;
  NIBBLE_HD Byte* operator[](int i) const { return first + i * stride; }
};

/// Adds `lines` lines of N tiles of w and M of x. w[lines, terms, 2 kTile, kTileLine]; x[M], of each [lines, terms,
/// kTileBytes]; sums[N], of each of which M tiles are changed, or begun. Multiplying leaves the core time for other
/// work: beside() is called kLineProducts times for each line.
template <class Tiles, int N, int M, class Beside>
NIBBLE_HD void multiply_tiles(const char* w, Strided<const char> x, int lines, Strided<char> sums, bool begin,
                              Beside&& beside) {
  if (begin) {
    _tile_zero(0);
    if constexpr (M > 1) _tile_zero(1);
    if constexpr (N > 1) _tile_zero(2);
    if constexpr (N > 1 && M > 1) _tile_zero(3);
  } else {
    _tile_loadd(0, sums[0], kTileLine);
    if constexpr (M > 1) _tile_loadd(1, sums[0] + kTileBytes, kTileLine);
    if constexpr (N > 1) _tile_loadd(2, sums[1], kTileLine);
    if constexpr (N > 1 && M > 1) _tile_loadd(3, sums[1] + kTileBytes, kTileLine);
  }
  for (int line = 0; line < lines; ++line) {
    for (int i = 0; i < Tiles::kWeightTerms; ++i) {
      const char* weight = w + (line * Tiles::kWeightTerms + i) * 2 * kTileBytes;
      for (int j = 0; i + j < Tiles::kFactorTerms; ++j) {
        const int factor = (line * Tiles::kFactorTerms + j) * kTileBytes;
        _tile_loadd(6, x[0] + factor, kTileLine);
        if (j == 0) _tile_loadd(4, weight, kTileLine);
        Tiles::template multiply<0, 0>();
        if constexpr (M > 1) {
          _tile_loadd(7, x[1] + factor, kTileLine);
          Tiles::template multiply<0, 1>();
        }
        if constexpr (N > 1) {
          if (j == 0) _tile_loadd(5, weight + kTileBytes, kTileLine);
          Tiles::template multiply<1, 0>();
          if constexpr (M > 1) Tiles::template multiply<1, 1>();
        }
        beside();
      }
    }
  }
  _tile_stored(0, sums[0], kTileLine);
  if constexpr (M > 1) _tile_stored(1, sums[0] + kTileBytes, kTileLine);
  if constexpr (N > 1) _tile_stored(2, sums[1], kTileLine);
  if constexpr (N > 1 && M > 1) _tile_stored(3, sums[1] + kTileBytes, kTileLine);
}

/// Sixteen lines of sixteen 32-bit words, `stride` bytes apart, as columns. kPairs of words of 16 bits are taken four
/// apart: of each eight, words 0 and 4, 1 and 5, 2 and 6, 3 and 7.
template <bool kApart>
NIBBLE_HD void transpose(const void* lines, std::ptrdiff_t stride, __m512i (&columns)[kTile]) {
  const __m512i apart = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
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
      if constexpr (kApart) four[i] = _mm512_shuffle_epi8(four[i], apart);
    }
    const __m512i low[2] = {_mm512_unpacklo_epi32(four[0], four[1]), _mm512_unpacklo_epi32(four[2], four[3])};
    const __m512i high[2] = {_mm512_unpackhi_epi32(four[0], four[1]), _mm512_unpackhi_epi32(four[2], four[3])};
    columns[4 * quarter] = _mm512_unpacklo_epi64(low[0], low[1]);
    columns[4 * quarter + 1] = _mm512_unpackhi_epi64(low[0], low[1]);
    columns[4 * quarter + 2] = _mm512_unpacklo_epi64(high[0], high[1]);
    columns[4 * quarter + 3] = _mm512_unpackhi_epi64(high[0], high[1]);
  }
}

/// Sixteen lines of 64 bytes, `stride` bytes apart, as the columns of a tile.
NIBBLE_HD void transpose_to_tile(const void* lines, std::ptrdiff_t stride, char* tile) {
  __m512i columns[kTile];
  transpose<false>(lines, stride, columns);
  for (int i = 0; i < kTile; ++i) _mm512_storeu_si512(tile + i * kTileLine, columns[i]);
}

/// Sixteen weights in bf16 for each quarter of a group.
struct QuarterTables {
  __m512i first, second;  ///< of two quarters each

  NIBBLE_HD QuarterTables(const Bf16x32& of_first, const Bf16x32& of_second)
      : first(reinterpret_cast<__m512i>(of_first.pairs)), second(reinterpret_cast<__m512i>(of_second.pairs)) {}

  /// A part of a group of 64 bytes of codes.
  NIBBLE_HD Bf16x32 lookup(const std::uint8_t* codes, int part) const {
    const __m512i nibbles = _mm512_srli_epi16(_mm512_loadu_si512(codes), static_cast<unsigned>(4 * part));
    const __m512i odd_quarters = _mm512_maskz_set1_epi16(0xff00ff00, 16);
    const __m512i places = _mm512_ternarylogic_epi32(nibbles, _mm512_set1_epi16(15), odd_quarters, 0xea);
    const __m512i found = _mm512_permutexvar_epi16(places, first);
    return {reinterpret_cast<__m512bh>(_mm512_mask_permutexvar_epi16(found, 0xffff0000, places, second))};
  }
};

}  // namespace
}  // namespace nibble
