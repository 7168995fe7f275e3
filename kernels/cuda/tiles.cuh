// The order in which quantized weights stand on a GPU, and how a warp's lanes turn them into factors.
//
// A tile is 16 rows and 64 (4-bit) or 32 (int8) columns: 512 bytes, 16 for each lane of a warp, so that one load brings
// a warp a tile. Tiles of the same rows stand one behind the other. Lane 4 g + t holds rows g and g + 8 and a run of
// 4 * kSteps columns from t * 4 * kSteps on: step j of a tile takes four of them, the first two as columns 2t, 2t + 1
// of the matrix that mma.m16n8k16 multiplies, the last two as columns 2t + 8, 2t + 9. Which column goes where makes no
// difference to a sum, as long as x is read in the same order; and so x is read in its own order, in one piece a lane.
//
//   lane's 16 bytes:   step 0 [ g:01 | g+8:01 | g:23 | g+8:23 ]  step 1 ...     (01, 23: pairs of columns)
//
// What is four bits of a number rather than the place of a level (int4) is taken apart with masks. So the two codes of
// pair i of a word's four are its nibbles i and i + 4: the low bits of a register's halves, once moved down.
//
// The absmax of rows g and g + 8 stand side by side, for each tile's rows and block of columns:
// [n/16][k/blocksize][8][2]; and so do scales and zero points of groups. Plain weights stay row by row, as cuBLAS reads
// them: a lane reads its runs from two rows.
//
// A matrix whose shape has no whole tiles, or whose blocks do not begin where rows do, stays as it is on a CPU and goes
// the plain way (linear_plain.cuh).
#pragma once

#include <algorithm>

#include "kernels/cuda/device.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/layout/weight.h"

namespace nibble {

inline constexpr int kTileRows = 16;

/// Whether a weight on a GPU stands in tiles.
template <class T>
bool is_tiled(const Dense<T>& w) {
  return w.n % kTileRows == 0 && w.k % 32 == 0;
}
inline bool is_tiled(const Int8Row& w) { return w.n % kTileRows == 0 && w.k % 32 == 0; }
template <class Scale>
bool is_tiled(const Lut4<Scale>& w) {
  return w.n % kTileRows == 0 && w.k % 64 == 0 && w.blocksize % 64 == 0 && w.k % w.blocksize == 0;
}

template <class Zero>
bool is_tiled(const Int4Group<Zero>& w) {
  return w.n % kTileRows == 0 && w.k % 64 == 0 && w.group_size % 64 == 0;
}

/// The place of a pair of columns in tiles of `steps` steps, counted in pairs. `col` is even.
__host__ __device__ inline std::int64_t place_in_tiles(int row, int col, int k, int steps) {
  const int cols = 16 * steps;
  const int run = 4 * steps;
  const std::int64_t tile = static_cast<std::int64_t>(row / kTileRows) * (k / cols) + col / cols;
  const int c = col % cols;
  const int lane = (row % 8) * 4 + c / run;
  const int pair = (c % run) / 4 * 4 + (row % kTileRows) / 8 + (c % 4) / 2 * 2;
  return tile * (8 * cols) + lane * run + pair;
}

/// The place of a block's absmax; `blocks` is k / blocksize.
__host__ __device__ inline std::int64_t place_of_absmax(int row, int block, int blocks) {
  return (static_cast<std::int64_t>(row / kTileRows) * blocks + block) * kTileRows + (row % 8) * 2 +
         (row % kTileRows) / 8;
}

// What a lane holds of one step of a tile: four registers of two 16-bit factors as mma takes them, or eight fp32.
struct Factors32 {
  float2 v[4];  ///< row g: 0 and 2, row g + 8: 1 and 3
};

/// Factors of one step.
template <class T>
using StepFactors = std::conditional_t<sizeof(T) == 4, Factors32, std::uint32_t[4]>;

template <class T, class V>
__device__ __forceinline__ void put(StepFactors<T>& factors, int i, V value) {
  if constexpr (sizeof(T) == 4) {
    factors.v[i] = value;
  } else {
    factors[i] = value;
  }
}

/// Word `i` of a lane's 16 bytes.
__device__ __forceinline__ std::uint32_t word_at(const uint4& w, int i) {
  return i == 0 ? w.x : i == 1 ? w.y : i == 2 ? w.z : w.w;
}

/// Tiles of a row that go through shared memory together, to one warp: a batch.
inline constexpr int kBatch = 4;

/// What kernels need to know of a weight in tiles. A Place is where a lane stands in a row of tiles; `load` fetches
/// what it needs of the tile that is some rows further down and some columns on. Or it goes through shared memory:
/// lanes begin at their `source`, `pieces` are those of a batch, kTiles in each row, kPiecesOn from tile to tile,
/// pieces_down() from row to row; `copy` sends so many of a row (kPieces times 16 bytes for each lane and tile) to a
/// stage, `copy_notes` the kNoteBytes that lanes with the same rows share (scales). When a lane's copies have come it
/// makes of its notes what is read (`settle_notes`), and when all lanes have, `read` gives what `load` does, or what
/// comes of it. `factors` are those of one step (`column`: column_of the lane), `scales` what their products with rows
/// g and g + 8 are multiplied by, `row_scale` what a row's sum is at the end, or what becomes that where it is used.
/// `at` is one weight, for whom speed is no matter.
template <class Layout>
struct TileView;

/// Up to kTiles tiles whose lanes' pieces stand beside each other, in memory as in shared memory.
template <int kTiles>
__device__ __forceinline__ void copy_tiles(const uint4* pieces, int tiles, std::uint32_t stage, int lane) {
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    if (i < tiles) copy_async<16>(stage + static_cast<std::uint32_t>(i * 32 + lane) * 16, pieces + i * 32);
  }
}
/// Where a lane finds the 8 bytes that are noted of a tile of a batch: lane 4 g + t wrote those of rows g and tile t.
__device__ __forceinline__ std::uint32_t note_of(std::uint32_t notes, int tile, int lane) {
  return notes + static_cast<std::uint32_t>((lane / 4 * 4 + tile) * 8);
}
__device__ __forceinline__ uint4 read_tile(int tile, std::uint32_t stage, int lane) {
  return load_shared(stage + static_cast<std::uint32_t>(tile * 32 + lane) * 16);
}

/// The aligned word that a pair of bytes stands in, which is the least that can be copied, and the pair in it. Pairs of
/// one lane stand a multiple of a word apart.
__device__ __forceinline__ const void* word_of(const uchar2* pair) {
  return reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(pair) & ~std::uintptr_t{3});
}
__device__ __forceinline__ uchar2 pair_of_word(const uchar2* pair, std::uint32_t word) {
  word >>= (reinterpret_cast<std::uintptr_t>(pair) & 2) * 8;
  return {static_cast<unsigned char>(word), static_cast<unsigned char>(word >> 8)};
}

}  // namespace nibble
