// Sums of a team's warps on their way to the blocks that add them up.
#pragma once

#include <bit>

#include "kernels/cuda/team.cuh"
#include "kernels/cuda/tiles.cuh"

namespace nibble {

/// Rows of tiles are computed in turns, up to kRowsOfTurn in each. Each block of the team has a share of the rows of x,
/// by pairs, and gets from every set of warps of the team their sums for them, in pieces of 128 bytes: a pair of rows
/// of x for each of a tile's rows. There is room for one turn: blocks tell each other when they have added theirs up,
/// and hear of it behind the tiles of the next one.
///
/// Blocks of a cluster need no fence, which would be one of the whole GPU: a barrier counts bytes. A warp announces to
/// its own block's as many as it sends, since what it sends to others the same warps of others send to this block. A
/// block by itself meets.
template <int kRows, int kWarps, int kDown, int kApart>
class Exchange {
 public:
  static constexpr int kPairs = kRows / 2;
  static constexpr int kPieceBytes = kTileRows * 8;
  static constexpr int kPieces = kDown * kWarps * kPairs;
  static constexpr int kBarrierBytes = 8;
  static constexpr int kMostTeamShift = std::countr_zero(static_cast<unsigned>(kPairs));

  /// `room` has kPieces, kApart bytes from one to the next; `barrier` kBarrierBytes. Of 2^team_shift blocks,
  /// 2^sets_shift warps divide a row of tiles among them.
  __device__ __forceinline__ Exchange(std::uint32_t room, std::uint32_t barrier, int team_shift, int sets_shift)
      : room_(room),
        barrier_(barrier),
        team_shift_(team_shift),
        pairs_shift_(kMostTeamShift - team_shift),
        sets_shift_(sets_shift) {}

  /// log2 of how many pairs of rows of x are this block's.
  __device__ __forceinline__ int pairs_shift() const { return pairs_shift_; }

  /// Sums of row `row` of a turn's tiles by one set, for pair `pair` of a block's: float2[16].
  __device__ __forceinline__ std::uint32_t piece(int row, int set, int pair) const {
    return room_ + static_cast<std::uint32_t>(((((row << sets_shift_) + set) << pairs_shift_) + pair) * kApart);
  }

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  /// By all threads of a block, which meet before they send.
  __device__ __forceinline__ void open() const {
    if (team_shift_ == 0) return;
    if (threadIdx.x == 0) {
      make_barrier(barrier_, kWarps);
      publish_barriers();
    }
    come_to_cluster();
  }
  /// By the same threads: before they send, until all blocks are there; and behind `let_go_on`.
  __device__ __forceinline__ void wait_for_team() const {
    if (team_shift_ > 0) wait_for_blocks();
  }
  /// When they have added up a turn's sums, and another one follows. Halves of warps may have parted.
  __device__ __forceinline__ void let_go_on() const {
    __syncwarp();
    if (team_shift_ > 0) return come_to_cluster();
    __syncthreads();
  }
  /// Sends a warp's sums of a row, of which lane 4 g + t has the pairs of rows of x t, t + 4, ... for rows g and g + 8.
  __device__ __forceinline__ void send(int row, int set, const float (&sums)[kPairs / 4][4], int lane) const {
    for_each_piece(row, set, lane, [&](int block, std::uint32_t place, int i) {
      if (team_shift_ == 0) return store_shared(place, sums[i]);
      const std::uint32_t there = in_block(barrier_, block);
      send_there(in_block(place, block), sums[i][0], sums[i][1], there);
      send_there(in_block(place + 64, block), sums[i][2], sums[i][3], there);
    });
  }
  /// By every warp, once a turn: so many rows it has sent.
  __device__ __forceinline__ void announce(int rows, int lane) const {
    if (team_shift_ > 0 && lane == 0) arrive_announcing(barrier_, rows * kPairs * kPieceBytes);
  }
  /// By all threads of a block, until all sums of a turn have come.
  __device__ __forceinline__ void wait(int turn) const {
    if (team_shift_ == 0) return __syncthreads();
    wait_for_cluster(barrier_, turn % 2);
  }
#else
  __device__ void open() const {}
  __device__ void wait_for_team() const {}
  __device__ __forceinline__ void let_go_on() const { __syncthreads(); }
  __device__ __forceinline__ void send(int row, int set, const float (&sums)[kPairs / 4][4], int lane) const {
    for_each_piece(row, set, lane, [&](int, std::uint32_t place, int i) { store_shared(place, sums[i]); });
  }
  __device__ void announce(int, int) const {}
  __device__ __forceinline__ void wait(int) const { __syncthreads(); }
#endif

 private:
  template <class F>
  __device__ __forceinline__ void for_each_piece(int row, int set, int lane, F&& f) const {
#pragma unroll
    for (int i = 0; i < kPairs / 4; ++i) {
      const int pair = i * 4 + lane % 4, block = pair >> pairs_shift_;
      f(block, piece(row, set, pair - (block << pairs_shift_)) + static_cast<std::uint32_t>(lane / 4 * 8), i);
    }
  }
  __device__ __forceinline__ static void store_shared(std::uint32_t place, const float (&sums)[4]) {
    store_shared_pair(place, sums[0], sums[1]);
    store_shared_pair(place + 64, sums[2], sums[3]);
  }

  std::uint32_t room_, barrier_;
  int team_shift_, pairs_shift_, sets_shift_;
};

}  // namespace nibble
