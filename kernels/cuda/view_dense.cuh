// Plain weights, row by row: a lane reads its runs from two rows.
#pragma once

#include "kernels/cuda/tiles.cuh"

namespace nibble {

template <class Value>
struct TileView<Dense<Value>> {
  static constexpr int kSteps = 2;
  static constexpr bool kHasTable = false;
  static constexpr int kWords = static_cast<int>(sizeof(Value)) * 8 / 16;
  static constexpr int kPieces = 2 * kWords;
  static constexpr int kPiecesOn = 4 * kWords;
  static constexpr int kNoteBytes = 0;

  using Place = const Value*;
  struct Loaded {
    uint4 upper[kWords], lower[kWords];
  };
  using Read = Loaded;

  const Value* values;
  int n, k;

  TileView() = default;
  explicit TileView(const Dense<Value>& w) : values(w.values.template as<Value>()), n(w.n), k(w.k) {}

  __device__ __forceinline__ Place place(int row_tile, int lane) const {
    return values + (static_cast<std::int64_t>(row_tile) * kTileRows + lane / 4) * k + lane % 4 * 8;
  }
  __device__ __forceinline__ Loaded load(Place place, int row, int col) const {
    const auto* upper = reinterpret_cast<const uint4*>(place + static_cast<unsigned>(row * kTileRows * k + col * 32));
    const auto* lower = reinterpret_cast<const uint4*>(reinterpret_cast<const Value*>(upper) + 8U * k);
    Loaded loaded;
#pragma unroll
    for (int i = 0; i < kWords; ++i) loaded.upper[i] = load_once(upper + i), loaded.lower[i] = load_once(lower + i);
    return loaded;
  }

  // Rows of a batch, of kTiles beside each other, stand one behind the other in shared memory, as lines of memory are
  // asked for whole. Where a row's number is odd its pieces change places, so that lanes of neighbouring rows find
  // theirs in different banks.
  static constexpr int row_pieces(int tiles) { return tiles * kPiecesOn; }
  template <int kTiles>
  __device__ __forceinline__ static std::uint32_t place_of_piece(int row, int piece) {
    const int moved = piece ^ (row % 2 * (kWords == 1 ? 4 : 1));
    return static_cast<std::uint32_t>((row * row_pieces(kTiles) + moved) * 16);
  }
  template <int kTiles>
  __device__ __forceinline__ const uint4* source(int row_tile, int lane) const {
    const std::int64_t row = static_cast<std::int64_t>(row_tile) * kTileRows + lane / row_pieces(kTiles);
    return reinterpret_cast<const uint4*>(values + row * k) + lane % row_pieces(kTiles);
  }
  __device__ __forceinline__ const uint4* pieces(const uint4* source, int row, int col) const {
    return source + static_cast<unsigned>(row * kTileRows * (k / 32) + col) * kPiecesOn;
  }
  __device__ __forceinline__ int pieces_down() const { return kTileRows * (k / 32) * kPiecesOn; }
  template <int kTiles>
  __device__ __forceinline__ void copy(const uint4* pieces, int tiles, std::uint32_t stage, int lane) const {
    constexpr int kPiecesOfRow = row_pieces(kTiles), kRowsAtOnce = 32 / kPiecesOfRow;
    if (lane % kPiecesOfRow >= tiles * kPiecesOn) return;
#pragma unroll
    for (int row = 0; row < kTileRows; row += kRowsAtOnce, pieces += kRowsAtOnce * (k / 32) * kPiecesOn) {
      copy_async<16>(stage + place_of_piece<kTiles>(row + lane / kPiecesOfRow, lane % kPiecesOfRow), pieces);
    }
  }
  template <int kTiles>
  __device__ __forceinline__ Loaded read(Place, int tile, std::uint32_t stage, std::uint32_t, int lane) const {
    Loaded loaded;
    stage += static_cast<std::uint32_t>(tile / kTiles * (kTileRows * row_pieces(kTiles) * 16));
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      const int piece = tile % kTiles * kPiecesOn + lane % 4 * kWords + i;
      loaded.upper[i] = load_shared(stage + place_of_piece<kTiles>(lane / 4, piece));
      loaded.lower[i] = load_shared(stage + place_of_piece<kTiles>(lane / 4 + 8, piece));
    }
    return loaded;
  }
  template <class T, int Step>
  __device__ __forceinline__ void factors(const Loaded& loaded, std::uint32_t, StepFactors<T>& f) const {
    const auto word = [](const uint4(&words)[kWords], int i) { return word_at(words[i / 4], i % 4); };
    if constexpr (sizeof(T) == 2) {
      f[0] = word(loaded.upper, 2 * Step), f[1] = word(loaded.lower, 2 * Step);
      f[2] = word(loaded.upper, 2 * Step + 1), f[3] = word(loaded.lower, 2 * Step + 1);
    } else if constexpr (sizeof(Value) == 2) {
      f.v[0] = unpack2<Value>(word(loaded.upper, 2 * Step)), f.v[1] = unpack2<Value>(word(loaded.lower, 2 * Step));
      f.v[2] = unpack2<Value>(word(loaded.upper, 2 * Step + 1));
      f.v[3] = unpack2<Value>(word(loaded.lower, 2 * Step + 1));
    } else {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int i = 4 * Step + 2 * half;
        f.v[2 * half] = {__uint_as_float(word(loaded.upper, i)), __uint_as_float(word(loaded.upper, i + 1))};
        f.v[2 * half + 1] = {__uint_as_float(word(loaded.lower, i)), __uint_as_float(word(loaded.lower, i + 1))};
      }
    }
  }
  __device__ __forceinline__ float2 scales(const Loaded&) const { return {1.0F, 1.0F}; }
  __device__ float row_scale(int) const { return 1.0F; }
  __device__ float at(int row, int col) const { return to_f32(values[static_cast<std::int64_t>(row) * k + col]); }
};

}  // namespace nibble
