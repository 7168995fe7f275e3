// Tiles without AMX, in registers: a lane has a row of x, and each word of w meets all of them. Included after
// tile_lines.h.
#pragma once

namespace nibble {
namespace {

NIBBLE_HD void begin_tiles() {}
NIBBLE_HD void end_tiles() {}
NIBBLE_HD void memory_is_as_written() {}

/// In a panel, each row's lines stand together.
struct LaneTiles {
  static constexpr int kWeightTerms = 1, kFactorTerms = 1;
  static constexpr std::ptrdiff_t kLineStride = kTileLine;
  static constexpr std::ptrdiff_t row_stride(int lines) { return std::ptrdiff_t{lines} * kTileLine; }
};

/// A word of a line is a number of fp32.
struct F32Tiles : LaneTiles {
  using Element = float;
  using Sums = F32x16;
  using Sum = float;
  static constexpr int kDigits = 1, kBlockLines = 32;
  NIBBLE_HD static F32x16 load_line(const char* line) { return load(reinterpret_cast<const float*>(line)); }
  NIBBLE_HD static F32x16 spread_word(const char* word) { return broadcast(*reinterpret_cast<const float*>(word)); }
  NIBBLE_HD static F32x16 accumulate(const F32x16& sums, const F32x16& w, const F32x16& x) { return fma(w, x, sums); }
};

/// Adds lines of kRows rows of w times M tiles of x: as many sums as there are registers for. A block's products are
/// added up by themselves and then to what came before.
template <class Tiles, int kRows, int M>
[[gnu::noinline]] void multiply_lines(const char* w, Strided<const char> x, int lines, char* sums, bool begin) {
  const std::ptrdiff_t row_stride = Tiles::row_stride(lines);
  typename Tiles::Sums block[kRows][M] = {};
  for (int line = 0; line < lines; ++line, w += Tiles::kLineStride) {
    for (int word = 0; word < kTile; ++word) {
      decltype(Tiles::load_line(nullptr)) columns[M];
      for (int m = 0; m < M; ++m) columns[m] = Tiles::load_line(x[m] + (line * kTile + word) * kTileLine);
      for (int row = 0; row < kRows; ++row) {
        const auto weight = Tiles::spread_word(w + row * row_stride + word * 4);
        for (int m = 0; m < M; ++m) block[row][m] = Tiles::accumulate(block[row][m], weight, columns[m]);
      }
    }
  }
  for (int row = 0; row < kRows; ++row) {
    for (int m = 0; m < M; ++m) {
      auto* place = reinterpret_cast<typename Tiles::Sum*>(sums + m * kTileBytes + row * kTileLine);
      store(place, begin ? block[row][m] : load(place) + block[row][m]);
    }
  }
}

/// Adds `lines` lines of N tiles of w and M of x. w[2 kTile, lines, kTileLine]; x[M], of each [lines, kTileBytes];
/// sums[N], of each of which M tiles are changed, or begun. beside() is called kLineProducts times for each line.
template <class Tiles, int N, int M, class Beside>
NIBBLE_HD void multiply_tiles(const char* w, Strided<const char> x, int lines, Strided<char> sums, bool begin,
                              Beside&& beside) {
  static_assert(Tiles::kFactorTerms == 1);
  constexpr int kRows = kTileSums / M;
  for (int row = 0; row < N * kTile; row += kRows) {
    multiply_lines<Tiles, kRows, M>(w + row * Tiles::row_stride(lines), x, lines,
                                    sums[row / kTile] + row % kTile * kTileLine, begin);
  }
  for (int line = 0; line < lines; ++line) beside();
}

}  // namespace
}  // namespace nibble
