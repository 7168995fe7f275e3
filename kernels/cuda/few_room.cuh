// What a team of linear_few.cuh is: what it is told, what a block has where in shared memory, where a warp sits.
#pragma once

#include "kernels/cuda/exchange.cuh"
#include "kernels/cuda/linear_parts.cuh"
#include "kernels/cuda/norm_team.cuh"
#include "kernels/cuda/weight_stream.cuh"

namespace nibble {
namespace {

template <class Layout, class T>
struct FewTask {
  const T* x;
  NormTask<T> norm;
  bool normed;
  int rows, k;
  int x_pitch;        ///< bytes of a row of x in shared memory, or of x itself
  int team_shift;     ///< log2 of the blocks of a team
  int sharers_shift;  ///< log2 of how many sharers divide the columns of a row of tiles among them
  int part_tiles;     ///< columns of tiles, in batches, of each set of sharers' x that come together (few_columns.cuh)
  int own_shift;      ///< log2 of how many of them, beside each other, a warp takes
  LinearPart<Layout, T> parts[kMostProjections];
};

/// Most bytes of x that a block has where a larger team can have less, without and with what is between rows; and how
/// many come together at least, as small copies take their time (NOTES, 2026-11-30).
constexpr int kMostOfX = 64 * 1024, kMostRoomOfX = kMostOfX + 16 * 128, kLeastPartOfX = 16 * 1024;

/// What a block has. Where x has room in shared memory it is a whole multiprocessor's; where it has not, there is none
/// for more than half of the warps on GPUs with 99 KiB either, and others have two blocks on a multiprocessor.
template <class View, class T, int kRows, bool kStaged, int kRowsDown>
struct FewBlock {
  static constexpr int kWarps = kStaged ? 16 : 8, kStages = kStaged ? 2 : 1, kDown = kRowsDown;
  static constexpr int kThreads = 32 * kWarps, kResident = kStaged ? 1 : 2;
  /// A table of pairs of 16-bit levels has gaps of 128 bytes, which pieces of sums fill.
  static constexpr bool kInGaps = View::kHasTable && sizeof(T) == 2;
  using SumsExchange = Exchange<kRows, kWarps, kDown, kInGaps ? 256 : 128>;
  using Stream = WeightStream<View, kStages, kDown>;
  static constexpr int kSums = kInGaps ? 128 : View::kHasTable ? kPairTableBytes : 0;
  static constexpr int kBarriers =
      (View::kHasTable ? kPairTableBytes : 0) + (kInGaps ? 0 : SumsExchange::kPieces * SumsExchange::kPieceBytes);
  static constexpr int kInbox = kBarriers + SumsExchange::kBarrierBytes;
  /// x comes in so many parts, each with a barrier.
  static constexpr int kParts = 4, kPartBarriers = kInbox + static_cast<int>(sizeof(Inbox));
  static constexpr int kRings = kBarriers + 128;
  static_assert(kPartBarriers + 8 * kParts <= kRings);
  static constexpr int kX = kRings + kWarps * Stream::kBytes;
  /// Places of LayerNorm that a warp has at most.
  static constexpr int kMostNorm = kMostOfX / (kTeamNormRows * kNormColumns * static_cast<int>(sizeof(T)) * kWarps);
  /// How many sharers a warp takes at most, as its sums of those before are in registers meanwhile.
  static constexpr int kMostOwnShift = (kRows > 8 && kDown > 1) || View::kPieces > 1 ? 1 : 2;
  static_assert(!kInGaps || SumsExchange::kPieces <= 256);
};

/// Where a warp sits: what rows of tiles its team has, and which part of them is its own.
template <class Layout, class T, int kWarps>
struct FewSeat {
  int lane, warp, rank;
  const LinearPart<Layout, T>& part;
  int tile, tiles;           ///< the team's rows of tiles
  int groups, group;         ///< of warps of a block, and the warp's
  int of_block;              ///< sharers of the block
  int sets_shift;            ///< log2 of how many sets they are, of 2^own_shift sharers each
  int first_sharer, sharer;  ///< the block's first, and the warp's first

  __device__ __forceinline__ FewSeat(const FewTask<Layout, T>& task, int block, int thread)
      : lane(thread % 32),
        warp(__shfl_sync(0xffffffffU, thread / 32, 0)),
        rank(block & ((1 << task.team_shift) - 1)),
        part(part_of(task.parts, block >> task.team_shift)) {
    const int team = (block >> task.team_shift) - part.first_block;
    tile = team * part.block + min(team, part.longer);
    tiles = part.block + (team < part.longer ? 1 : 0);
    const int block_shift = task.sharers_shift - task.team_shift, warps_shift = block_shift - task.own_shift;
    of_block = 1 << block_shift, sets_shift = warps_shift;
    groups = kWarps >> warps_shift, group = warp >> warps_shift;
    first_sharer = rank << block_shift, sharer = first_sharer + ((warp - (group << warps_shift)) << task.own_shift);
  }
};

}  // namespace
}  // namespace nibble
