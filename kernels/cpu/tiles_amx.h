// Tiles of AMX: sixteen rows of 64 bytes each. Tiles 0 to 3 hold sums, 4 and 5 rows of w, 6 and 7 rows of x as columns.
// Included after tile_lines.h.
#pragma once

namespace nibble {
namespace {

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

/// What tiles hold: to sums of 16 rows of w by 16 of x the products of a line of each are added. kW and kX: which of
/// the tiles of w and of x. In bf16, of each line pairs' first and second products are added up apart, then both
/// together. A line of x has kTerms terms, one of w no more. The product of terms i and j is left out from i + j =
/// kTerms on: below 2^-16 of the whole for two terms, below 2^-23 for three. Sums of bytes are whole, and those
/// of each of kDigits digits apart.
/// In a panel, the lines of rows that are a tile stand together.
struct AmxTiles {
  static constexpr std::ptrdiff_t kLineStride = 2 * kTileBytes;
  static constexpr std::ptrdiff_t row_stride(int) { return kTileLine; }
};
template <int kOfWeight, int kTerms>
struct Bf16Tiles : AmxTiles {
  using Element = BFloat16;
  static constexpr int kWeightTerms = kOfWeight, kFactorTerms = kTerms, kDigits = 1;
  static constexpr int kBlockLines = kOfWeight == 1 ? 8 : 4;  ///< so that a panel is 16 to 24 KiB
  template <int kW, int kX>
  NIBBLE_HD static void multiply() {
    if constexpr (kW == 0 && kX == 0) _tile_dpbf16ps(0, 4, 6);
    if constexpr (kW == 0 && kX == 1) _tile_dpbf16ps(1, 4, 7);
    if constexpr (kW == 1 && kX == 0) _tile_dpbf16ps(2, 5, 6);
    if constexpr (kW == 1 && kX == 1) _tile_dpbf16ps(3, 5, 7);
  }
};
template <int kDigitsOfX>
struct ByteTiles : AmxTiles {
  using Element = std::int8_t;
  static constexpr int kWeightTerms = 1, kFactorTerms = 1, kDigits = kDigitsOfX;
  static constexpr int kBlockLines = 8, kWeightOffset = 0;
  template <int kW, int kX>
  NIBBLE_HD static void multiply() {
    if constexpr (kW == 0 && kX == 0) _tile_dpbssd(0, 4, 6);
    if constexpr (kW == 0 && kX == 1) _tile_dpbssd(1, 4, 7);
    if constexpr (kW == 1 && kX == 0) _tile_dpbssd(2, 5, 6);
    if constexpr (kW == 1 && kX == 1) _tile_dpbssd(3, 5, 7);
  }
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

/// Terms that have the bits of a number, and those of a layout's weights.
template <class T>
constexpr int kTermsOf = 3;
template <>
constexpr int kTermsOf<Half> = 2;
template <>
constexpr int kTermsOf<BFloat16> = 1;
template <class Layout>
constexpr int kLayoutTerms = 3;
template <class T>
constexpr int kLayoutTerms<Dense<T>> = kTermsOf<T>;

template <class Layout, class T>
using TilesOf = Bf16Tiles<(kLayoutTerms<Layout> < kTermsOf<T> ? kLayoutTerms<Layout> : kTermsOf<T>), kTermsOf<T>>;

}  // namespace
}  // namespace nibble
