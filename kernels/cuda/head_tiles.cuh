// Keys and values of a head on their way from the cache through shared memory, a tile at a time, for one warp.
#pragma once

#include "kernels/cuda/ptx.cuh"

namespace nibble {
namespace {

/// Keys that a warp takes at once.
constexpr int kTile = 16;

/// Rows in shared memory, one behind the other. A row's pieces of 16 bytes change places by its number, within groups
/// of eight, or of four where a row has no whole number of eights, so that the lanes of a read find other banks: four
/// pieces of two rows, or the same piece of eight.
template <class T, int kDims>
struct TileRows {
  static constexpr int kPerPiece = 16 / static_cast<int>(sizeof(T)), kPieces = kDims / kPerPiece;
  static constexpr int kRowBytes = 16 * kPieces, kGroup = kPieces % 8 == 0 ? 8 : 4;

  /// Bytes from the first row to a piece.
  __device__ static constexpr std::uint32_t place(int row, int piece) {
    return static_cast<std::uint32_t>(row * kRowBytes + (piece ^ turn(row)) * 16);
  }
  /// The address of a piece so many rows and pieces behind another one, whose row and piece have none of their bits.
  __device__ static constexpr std::uint32_t behind(std::uint32_t address, int rows, int pieces) {
    return (address ^ (turn(rows) ^ pieces % kGroup) * 16) + rows * kRowBytes + pieces / kGroup * kGroup * 16;
  }

 private:
  __device__ static constexpr int turn(int row) { return row / 2 % 4 + row % 2 * (kGroup - 4); }
};

/// A warp's tiles of a head on their way from the cache, through a ring in shared memory with room for the keys and
/// values of kTiles. All of it is asked for at first, then keys when keys were used, and values when values were.
template <class T, int kDims, int kTiles>
class HeadTiles {
 public:
  using Rows = TileRows<T, kDims>;
  static constexpr int kHalfBytes = kTile * Rows::kRowBytes;  // of a tile, its keys or its values
  static constexpr int kBytes = 2 * kTiles * kHalfBytes;

  /// `ring` is the address of kBytes; the head's rows in the cache are [context, head_dim]. The first tile is of rows
  /// `tile` * kTile on, the next one of `apart` rows further; rows from `newest` on are not in the cache yet.
  __device__ HeadTiles(std::uint32_t ring, const T* keys, const T* values, int tile, int apart, int newest,
                       int head_dim, int lane)
      : ring_(ring), older_(newest - tile * kTile), apart_(apart), head_dim_(head_dim), lane_(lane) {
    const std::int64_t place = static_cast<std::int64_t>(tile * kTile + lane / kSpan) * head_dim;
    next_key_ = keys + place + lane % kSpan * Rows::kPerPiece;
    next_value_ = values + place + lane % kSpan * Rows::kPerPiece;
  }

  /// Asks for the next tile's keys, and then its values, in place of those that were used. Rows that the cache does not
  /// have yet become zeros.
  __device__ __forceinline__ void ask_keys() { ask(next_key_); }
  __device__ __forceinline__ void ask_values() {
    ask(next_value_);
    older_ -= apart_;
  }
  /// Waits for what was asked for first.
  __device__ __forceinline__ void wait() const {
    wait_for_copies<2 * kTiles - 1>();
    __syncwarp();
  }
  /// Its address.
  __device__ __forceinline__ std::uint32_t rows() const { return ring_ + at_; }

  /// A lane's pieces of a key, and of the value behind it.
  struct Row {
    uint4 pieces[(2 * Rows::kPieces + 31) / 32];
  };
  __device__ __forceinline__ void load(const T* key, const T* value, Row& row) const {
    for_each_piece([&](int i, bool is_value, int piece) {
      row.pieces[i] = *reinterpret_cast<const uint4*>((is_value ? value : key) + piece * Rows::kPerPiece);
    });
  }
  __device__ __forceinline__ void store(T* key, T* value, const Row& row) const {
    for_each_piece([&](int i, bool is_value, int piece) {
      *reinterpret_cast<uint4*>((is_value ? value : key) + piece * Rows::kPerPiece) = row.pieces[i];
    });
  }
  /// Puts them into a row of the warp's last tile, when its keys are next to be used.
  __device__ __forceinline__ void put(int row_of_tile, const Row& row) const {
    wait_for_copies<0>();
    __syncwarp();
    for_each_piece([&](int i, bool is_value, int piece) {
      store_shared(rows() + (is_value ? kHalfBytes : 0) + Rows::place(row_of_tile, piece), row.pieces[i]);
    });
    __syncwarp();
  }

 private:
  static constexpr int kSpan = Rows::kPieces > 16 ? 32 : Rows::kPieces > 8 ? 16 : 8;  // lanes that share a row
  static constexpr int kRows = 32 / kSpan;

  __device__ __forceinline__ void ask(const T*& next) {
    if (older_ >= 0) copy(next);
    commit_copies();
    next += static_cast<std::int64_t>(apart_) * head_dim_;
    at_ = at_ + kHalfBytes == kBytes ? 0 : at_ + kHalfBytes;
  }
  __device__ __forceinline__ void copy(const T* from) const {
    const int piece = lane_ % kSpan, row = lane_ / kSpan;
    const std::uint32_t to = rows() + Rows::place(row, piece);
#pragma unroll
    for (int i = 0; i < kTile; i += kRows, from += kRows * head_dim_) {
#pragma unroll
      for (int p = 0; p < Rows::kPieces; p += kSpan) {
        if (piece + p >= Rows::kPieces) continue;
        const bool valid = i + row < older_ && (piece + p) * Rows::kPerPiece < head_dim_;
        copy_async(Rows::behind(to, i, p), from + p * Rows::kPerPiece, valid);
      }
    }
  }
  template <class F>
  __device__ __forceinline__ void for_each_piece(F&& f) const {
#pragma unroll
    for (int i = 0; i < (2 * Rows::kPieces + 31) / 32; ++i) {
      const int number = lane_ + 32 * i, piece = number % Rows::kPieces;
      if (number < 2 * Rows::kPieces && piece * Rows::kPerPiece < head_dim_) f(i, number >= Rows::kPieces, piece);
    }
  }

  std::uint32_t ring_, at_ = 0;  ///< bytes from its begin to what was asked for first
  const T *next_key_, *next_value_;
  int older_;  ///< rows from the next tile's first one on that the cache has
  int apart_, head_dim_, lane_;
};

}  // namespace
}  // namespace nibble
