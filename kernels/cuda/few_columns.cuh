// A block's columns of x on their way to its shared memory, where they are not normalised.
#pragma once

#include "kernels/cuda/few_room.cuh"

namespace nibble {
namespace {

/// A set of sharers, which a warp takes one behind the other, has FewTask::part_tiles of its columns of tiles in each
/// part, so that warps begin when the first one is there. The copy engine brings them, and a barrier counts the bytes
/// of each. Before sm_90 lanes copy all, and the block meets when they have.
template <class Layout, class T, class Block>
class FewColumns {
 public:
  __device__ __forceinline__ FewColumns(const FewTask<Layout, T>& task, const FewSeat<Layout, T, Block::kWarps>& seat,
                                        char* shared)
      : task_(task),
        seat_(seat),
        shared_(shared),
        col_tiles_(static_cast<int>(static_cast<unsigned>(task.k) / kCols)) {}

  /// The block's, in tiles.
  __device__ __forceinline__ Share all() const { return shares(0, seat_.of_block); }
  /// Where a number of one of them stands.
  __device__ __forceinline__ T* place(int row, int col) const {
    return reinterpret_cast<T*>(shared_ + Block::kX + row * task_.x_pitch) + (col - all().first * kCols);
  }

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  /// By one thread, before it makes its block's barriers known.
  __device__ __forceinline__ void open() const {
    const int tiles = all().count(), of_part = task_.part_tiles << seat_.sets_shift;
    for (int part = 0; part < Block::kParts; ++part) {
      make_barrier(barrier(part), 1);
      arrive_announcing(barrier(part), min(max(tiles - part * of_part, 0), of_part) * task_.rows * kTileBytes);
    }
  }
  /// By all threads, when barriers are known: a warp has a row, a lane a part of a set.
  __device__ __forceinline__ void send() const {
    const int part = seat_.lane >> seat_.sets_shift, set = seat_.lane - (part << seat_.sets_shift), row = seat_.warp;
    if (row >= task_.rows || part >= Block::kParts) return;
    const Share tiles = tiles_of(set, part);
    if (tiles.count() <= 0) return;
    const int col = tiles.first * kCols;
    copy_bulk(shared_address(place(row, col)), task_.x + static_cast<std::int64_t>(row) * task_.k + col,
              tiles.count() * kTileBytes, barrier(part));
  }
  /// By all threads, before they meet.
  __device__ __forceinline__ void settle() const {}
  /// By a warp that comes to its tile number `tile`, and has waited for so many parts.
  __device__ __forceinline__ void wait_for(int tile, int& parts) const {
    if (parts == Block::kParts || tile < parts * task_.part_tiles) return;
    wait(barrier(parts), 0);
    ++parts;
  }
#else
  __device__ __forceinline__ void open() const {}
  __device__ __forceinline__ void send() const {
    constexpr int kValues = 16 / kBytes;
    const int first = all().first * kCols, columns = all().count() * kCols;
#pragma unroll 1
    for (int row = seat_.warp; row < task_.rows; row += Block::kWarps) {
      const T* const from = task_.x + static_cast<std::int64_t>(row) * task_.k + first;
#pragma unroll 4
      for (int col = seat_.lane * kValues; col < columns; col += 32 * kValues) {
        copy_async<16>(shared_address(place(row, first + col)), from + col);
      }
    }
    commit_copies();
  }
  __device__ __forceinline__ void settle() const { wait_for_copies<Block::kStages - 1>(); }
  __device__ __forceinline__ void wait_for(int, int&) const {}
#endif

 private:
  static constexpr int kCols = 16 * TileView<Layout>::kSteps, kBytes = static_cast<int>(sizeof(T));
  static constexpr int kTileBytes = kCols * kBytes;

  __device__ __forceinline__ std::uint32_t barrier(int part) const {
    return shared_address(shared_ + Block::kPartBarriers + 8 * part);
  }
  /// What some sharers of the block have.
  __device__ __forceinline__ Share shares(int begin, int count) const {
    const int first = seat_.first_sharer + begin;
    return {Share(col_tiles_, task_.sharers_shift, first).first,
            Share(col_tiles_, task_.sharers_shift, first + count - 1).last};
  }
  /// What comes of a set in a part.
  __device__ __forceinline__ Share tiles_of(int set, int part) const {
    const Share set_of_columns = shares(set << task_.own_shift, 1 << task_.own_shift);
    const int first = min(set_of_columns.first + part * task_.part_tiles, set_of_columns.last);
    return {first, min(first + task_.part_tiles, set_of_columns.last)};
  }

  const FewTask<Layout, T>& task_;
  const FewSeat<Layout, T, Block::kWarps>& seat_;
  char* shared_;
  int col_tiles_;
};

}  // namespace
}  // namespace nibble
