// What a block of the fused way is: its tile of y, its threads and their registers, and what it has where in shared
// memory.
#pragma once

#include <algorithm>

#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/ways.h"
#include "kernels/cuda/weight_stream.cuh"

namespace nibble {
namespace {

/// Tiles of a kernel.
template <template <class, class, int> class Products_, int kRows_, int kColumns_, int kMostStageSteps_, int kSteps_>
struct FusedTile {
  template <class T, class View, int kColumns>
  using Products = Products_<T, View, kColumns>;
  static constexpr int kRows = kRows_;        ///< of w
  static constexpr int kColumns = kColumns_;  ///< rows of x
  /// Steps of x that come together, a stage, where a batch of weights has so many; and that have room.
  static constexpr int kMostStageSteps = kMostStageSteps_, kSteps = kSteps_;
  static constexpr int kWarps = kRows / kTileRows;  ///< that multiply
  static constexpr int kThreads = 32 * kWarps;
  /// Of a whole block; and registers that a thread has at first, that one has who multiplies and one who does not.
  static constexpr int kBlockThreads = kThreads + 128;
  static constexpr int kFirstRegisters = 65536 / kBlockThreads / 8 * 8, kOtherRegisters = 24;
  static constexpr int kRegisters = (kBlockThreads * kFirstRegisters - 128 * kOtherRegisters) / kThreads / 8 * 8;
  static constexpr int kStepBytes = kColumns * kLineBytes;
  /// Whether the last rows of x, where they are half as many or fewer, are multiplied as half a tile.
  static constexpr bool kHasHalves = kColumns == kMostTileColumns;
};

/// Where a block has what in shared memory. Sums on their way out of registers take kScratchPieces of 128 bytes a warp,
/// which fit into the gaps of a table of pairs; those of all blocks of a cluster take the place of both rings.
template <class View, class Tile>
struct FusedRoom {
  static constexpr int kEights = Tile::kColumns / 8;
  static constexpr int kScratchPieces = 16;  ///< for each warp
  static constexpr int kScratch = View::kHasTable ? 128 : 0;
  static constexpr int kScratchApart = View::kHasTable ? 256 : 128;
  static constexpr int kLines = View::kHasTable ? kPairTableBytes : Tile::kWarps * kScratchPieces * kScratchApart;
  static_assert(Tile::kWarps * kScratchPieces * kScratchApart <= kLines);
  /// Of a batch of weights, and of a stage of lines.
  static constexpr int kBatchSteps = kBatch * View::kSteps / 4,
                       kStageSteps = std::min(Tile::kMostStageSteps, kBatchSteps);
  static constexpr int kStageBytes = kStageSteps * Tile::kStepBytes;
  static constexpr int kLineStages = Tile::kSteps / kStageSteps;
  static constexpr int kWeights = kLines + kLineStages * kStageBytes;
  /// Of stages that are there, of those that were read, and three of sums; and a word for each warpgroup.
  static constexpr int kBarrierBytes = 8 * (2 * kLineStages + 3) + 4 * (Tile::kWarps / 4);
  static constexpr int kRoomForWeights = (227 << 10) - kWeights - kBarrierBytes;
  static constexpr int kWeightStages = std::min(2, kRoomForWeights / (Tile::kWarps * WeightStream<View, 1>::kBytes));
  using Stream = WeightStream<View, kWeightStages>;
  static constexpr int kBarriers = kWeights + Tile::kWarps * Stream::kBytes;
  static constexpr int kBytes = kBarriers + kBarrierBytes;

  /// A warp's sums of eight rows of x, from one block.
  static constexpr int kEightBytes = 8 * kTileRows * 4;
  /// Eights that the blocks of a cluster have together when each takes as many as the one with the most.
  static constexpr int eights_of(int blocks) { return (kEights + blocks - 1) / blocks * blocks; }
  static constexpr bool has_room() {
    for (int blocks = 1; blocks <= kMostCluster; ++blocks) {
      const bool fits = kLines + Tile::kWarps * kEightBytes * eights_of(blocks) <= kBarriers;
      if (takes({Tile::kRows, Tile::kColumns}, {blocks, blocks}) && !fits) return false;
    }
    return true;
  }
};

}  // namespace
}  // namespace nibble
