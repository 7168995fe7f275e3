// A block's columns of x on their way to its shared memory, where they are not normalised: one of two classes with the
// same functions, which FewColumns names.
#pragma once

#include "kernels/cuda/few_room.cuh"

namespace nibble {
namespace {

/// Which they are, and where they stand.
template <class Layout, class T, class Block>
class ColumnsOfBlock {
 public:
  using Seat = FewSeat<Layout, T, Block::kWarps>;

  __device__ __forceinline__ ColumnsOfBlock(const FewTask<Layout, T>& task, const Seat& seat, char* shared)
      : task_(task),
        seat_(seat),
        shared_(shared),
        col_tiles_(static_cast<int>(static_cast<unsigned>(task.k) / kCols)) {}

  /// The block's, in tiles.
  __device__ __forceinline__ Share all() const { return of_sharers(0, seat_.of_block); }
  /// Where a number of one of them stands.
  __device__ __forceinline__ T* place(int row, int col) const {
    return reinterpret_cast<T*>(shared_ + Block::kX + row * task_.x_pitch) + (col - all().first * kCols);
  }

 protected:
  static constexpr int kCols = 16 * TileView<Layout>::kSteps, kTileBytes = kCols * static_cast<int>(sizeof(T));

  /// Those of some of the block's sharers, in tiles.
  __device__ __forceinline__ Share of_sharers(int begin, int count) const {
    return {col_tiles_, task_.sharers_shift, seat_.first_sharer + begin, count};
  }
  __device__ __forceinline__ const T* source(int row, int col) const {
    return task_.x + static_cast<std::int64_t>(row) * task_.k + col;
  }

  const FewTask<Layout, T>& task_;
  const Seat& seat_;
  char* shared_;
  int col_tiles_;
};

/// Lanes copy them, and the block meets when they have.
template <class Layout, class T, class Block>
class CopiedColumns : public ColumnsOfBlock<Layout, T, Block> {
 public:
  using ColumnsOfBlock<Layout, T, Block>::ColumnsOfBlock;

  /// By one thread, before it makes its block's barriers known.
  __device__ __forceinline__ void open() const {}
  /// By all threads; `meet` comes back when the team has come.
  template <class Meet>
  __device__ __forceinline__ void send(Meet&& meet) const {
    constexpr int kValues = 16 / static_cast<int>(sizeof(T));
    const Share tiles = this->all();
    const int first = tiles.first * this->kCols, columns = tiles.count() * this->kCols;
#pragma unroll 1
    for (int row = this->seat_.warp; row < this->task_.rows; row += Block::kWarps) {
      const T* const from = this->source(row, first);
      const std::uint32_t to = shared_address(this->place(row, first));
#pragma unroll 4
      for (int col = this->seat_.lane * kValues; col < columns; col += 32 * kValues) {
        copy_async<16>(to + static_cast<std::uint32_t>(col) * sizeof(T), from + col);
      }
    }
    commit_copies();
    meet();
  }
  /// By all threads, before the block meets.
  __device__ __forceinline__ void settle() const { wait_for_copies<Block::kStages - 1>(); }
  /// By a warp that comes to its tile number `tile`, and has waited for so many parts.
  __device__ __forceinline__ void wait_for(int, int&) const {}
};

/// The copy engine brings them, in parts of which a barrier each counts the bytes, so that warps begin with the first:
/// a set of sharers, which a warp takes one behind the other, has FewTask::part_tiles of its columns of tiles in each.
template <class Layout, class T, class Block>
class SentColumns : public ColumnsOfBlock<Layout, T, Block> {
 public:
  using ColumnsOfBlock<Layout, T, Block>::ColumnsOfBlock;

  __device__ __forceinline__ void open() const {
    const int tiles = this->all().count(), of_part = this->task_.part_tiles << this->seat_.sets_shift;
    for (int part = 0; part < Block::kParts; ++part) {
      const int here = min(max(tiles - part * of_part, 0), of_part);
      make_barrier(barrier(part), 1);
      arrive_announcing(barrier(part), here * this->task_.rows * this->kTileBytes);
    }
  }
  /// A warp has a row, a lane a part of a set.
  template <class Meet>
  __device__ __forceinline__ void send(Meet&& meet) const {
    meet();
    const auto& seat = this->seat_;
    const int part = seat.lane >> seat.sets_shift, set = seat.lane - (part << seat.sets_shift), row = seat.warp;
    if (row >= this->task_.rows || part >= Block::kParts) return;
    const Share tiles = tiles_of(set, part);
    if (tiles.count() == 0) return;
    const int col = tiles.first * this->kCols;
    copy_bulk(shared_address(this->place(row, col)), this->source(row, col), tiles.count() * this->kTileBytes,
              barrier(part));
  }
  __device__ __forceinline__ void settle() const {}
  __device__ __forceinline__ void wait_for(int tile, int& parts) const {
    if (parts == Block::kParts || tile < parts * this->task_.part_tiles) return;
    wait(barrier(parts), 0);
    ++parts;
  }

 private:
  __device__ __forceinline__ std::uint32_t barrier(int part) const {
    return shared_address(this->shared_ + Block::kPartBarriers + 8 * part);
  }
  __device__ __forceinline__ Share tiles_of(int set, int part) const {
    const Share of_set = this->of_sharers(set << this->task_.own_shift, 1 << this->task_.own_shift);
    const int first = min(of_set.first + part * this->task_.part_tiles, of_set.last);
    return {first, min(first + this->task_.part_tiles, of_set.last)};
  }
};

/// From sm_90 on the copy engine, where memory has done with 4 bits before the block has; where a weight has more,
/// lanes are 1 to 2 % faster (NOTES, 2026-11-30).
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
template <class Layout, class T, class Block>
using FewColumns =
    std::conditional_t<TileView<Layout>::kSteps == 4, SentColumns<Layout, T, Block>, CopiedColumns<Layout, T, Block>>;
#else
template <class Layout, class T, class Block>
using FewColumns = CopiedColumns<Layout, T, Block>;
#endif

}  // namespace
}  // namespace nibble
