// Sums of a team's warps on their way to the blocks that add them up.
#pragma once

#include <bit>

#include "kernels/cuda/team.cuh"
#include "kernels/cuda/tiles.cuh"

namespace nibble {

/// Rows of tiles are computed in rounds, one by each group of warps. Each block of the team has a share of the rows of
/// x, by pairs, and gets from every warp of the team its sums for them, in pieces of 128 bytes: a pair of rows of x for
/// each of a tile's rows. A block keeps two rounds, so that sums of one are sent while those of the last one are added
/// up. A warp waits for the last round and adds up its part of it before it sends its sums of this one; so when it
/// sends, all have done with the round before that, whose room it takes.
///
/// Blocks of a cluster need no fence, which would be one of the whole GPU: a barrier counts bytes. A warp announces to
/// its own block's as many as it sends, since what it sends to others the same warps of others send to this block.
template <int kRows, int kWarps, int kApart>
class Exchange {
 public:
  static constexpr int kPairs = kRows / 2;
  static constexpr int kPieceBytes = kTileRows * 8;
  static constexpr int kPieces = 2 * kWarps * kPairs;
  static constexpr int kBarrierBytes = 16;
  static constexpr int kMostTeamShift = std::countr_zero(static_cast<unsigned>(kPairs));

  /// `room` has kPieces, kApart bytes from one to the next; `barriers` kBarrierBytes. Of 2^team_shift blocks,
  /// 2^sharers_shift warps divide a row of tiles among them; a round has `groups` rows of tiles.
  __device__ __forceinline__ Exchange(std::uint32_t room, std::uint32_t barriers, int team_shift, int sharers_shift,
                                      int groups)
      : room_(room),
        barriers_(barriers),
        team_shift_(team_shift),
        pairs_shift_(kMostTeamShift - team_shift),
        sharers_shift_(sharers_shift),
        groups_(groups) {}

  /// log2 of how many pairs of rows of x are this block's.
  __device__ __forceinline__ int pairs_shift() const { return pairs_shift_; }

  /// Sums of row `row` of a round's tiles by one sharer, for pair `pair` of a block's: float2[16].
  __device__ __forceinline__ std::uint32_t piece(int round, int row, int sharer, int pair) const {
    const int place = (((round & 1) * groups_ + row) << sharers_shift_) + sharer;
    return room_ + static_cast<std::uint32_t>(((place << pairs_shift_) + pair) * kApart);
  }

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  /// By all threads of a block, which meet before they send.
  __device__ __forceinline__ void open() const {
    if (threadIdx.x == 0) {
      make_barrier(barrier(0), kWarps);
      make_barrier(barrier(1), kWarps);
      publish_barriers();
    }
    if (team_shift_ > 0) come_to_cluster();
  }
  /// By the same threads, before they send.
  __device__ __forceinline__ void wait_for_team() const {
    if (team_shift_ > 0) wait_for_blocks();
  }
  /// Sends a warp's sums, of which lane 4 g + t has the pairs of rows of x t, t + 4, ... for rows g and g + 8.
  __device__ __forceinline__ void send(int round, int row, int sharer, const float (&sums)[kPairs / 4][4],
                                       int lane) const {
    for_each_piece(round, row, sharer, lane, [&](int block, std::uint32_t place, int i) {
      if (team_shift_ == 0) return store_shared(place, sums[i]);
      const std::uint32_t there = in_block(barrier(round), block);
      send_there(in_block(place, block), sums[i][0], sums[i][1], there);
      send_there(in_block(place + 64, block), sums[i][2], sums[i][3], there);
    });
    if (team_shift_ == 0) __syncwarp();
    if (lane == 0) arrive_announcing(barrier(round), team_shift_ == 0 ? 0 : kPairs * kPieceBytes);
  }
  /// By a warp that has no row of tiles in this round.
  __device__ __forceinline__ void send_nothing(int round, int lane) const {
    if (lane == 0) arrive(barrier(round));
  }
  /// Until all sums of a round have come.
  __device__ __forceinline__ void wait(int round) const { wait_for_cluster(barrier(round), round / 2 % 2); }
#else
  __device__ void open() const {}
  __device__ void wait_for_team() const {}
  __device__ __forceinline__ void send(int round, int row, int sharer, const float (&sums)[kPairs / 4][4],
                                       int lane) const {
    for_each_piece(round, row, sharer, lane, [&](int, std::uint32_t place, int i) { store_shared(place, sums[i]); });
  }
  __device__ void send_nothing(int, int) const {}
  __device__ __forceinline__ void wait(int) const { __syncthreads(); }
#endif

 private:
  __device__ __forceinline__ std::uint32_t barrier(int round) const {
    return barriers_ + static_cast<std::uint32_t>(round % 2 * 8);
  }
  template <class F>
  __device__ __forceinline__ void for_each_piece(int round, int row, int sharer, int lane, F&& f) const {
#pragma unroll
    for (int i = 0; i < kPairs / 4; ++i) {
      const int pair = i * 4 + lane % 4, block = pair >> pairs_shift_;
      f(block, piece(round, row, sharer, pair - (block << pairs_shift_)) + static_cast<std::uint32_t>(lane / 4 * 8), i);
    }
  }
  __device__ __forceinline__ static void store_shared(std::uint32_t place, const float (&sums)[4]) {
    store_shared_pair(place, sums[0], sums[1]);
    store_shared_pair(place + 64, sums[2], sums[3]);
  }

  std::uint32_t room_, barriers_;
  int team_shift_, pairs_shift_, sharers_shift_, groups_;
};

}  // namespace nibble
