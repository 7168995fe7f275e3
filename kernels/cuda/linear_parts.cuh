// How rows of tiles of up to three weights, which share a launch, are divided among blocks, and columns among warps.
#pragma once

#include "kernels/cuda/linear.h"
#include "kernels/cuda/views.cuh"

namespace nibble {

/// One of the weights, and its blocks, which follow those of the part before.
template <class Layout, class T>
struct LinearPart {
  int first_block;
  int block, longer;  ///< rows of tiles a block has; the first `longer` blocks have one more
  Finish<T> finish;
  TileView<Layout> weight;
};

template <class Layout, class T>
__device__ __forceinline__ unsigned part_number(const LinearPart<Layout, T> (&parts)[kMostProjections], int block) {
  return block < parts[1].first_block ? 0 : block < parts[2].first_block ? 1 : 2;
}
template <class Layout, class T>
__device__ __forceinline__ const LinearPart<Layout, T>& part_of(const LinearPart<Layout, T> (&parts)[kMostProjections],
                                                                int block) {
  return parts[part_number(parts, block)];
}

struct Division {
  int blocks;
  int most_tiles;  ///< rows of tiles that a block has at most
};

/// Gives each of the first `count` parts its share of `wanted` blocks, one at least.
template <class Layout, class T>
Division divide(LinearPart<Layout, T> (&parts)[kMostProjections], int count, int wanted) {
  const auto tiles_of = [&](int part) { return parts[part].weight.n / kTileRows; };
  int tiles = 0;
  for (int i = 0; i < count; ++i) tiles += tiles_of(i);
  Division division{};
  for (int i = 0; i < kMostProjections; ++i) {
    auto& part = parts[i];
    part.first_block = division.blocks;
    if (i >= count) continue;
    const int share = std::clamp(static_cast<int>(std::int64_t{wanted} * tiles_of(i) / tiles), 1, tiles_of(i));
    part.block = tiles_of(i) / share, part.longer = tiles_of(i) % share;
    division.most_tiles = std::max(division.most_tiles, part.block + (part.longer > 0 ? 1 : 0));
    division.blocks += share;
  }
  return division;
}

/// log2 of how many warps, eight or four, divide the columns of a row of tiles among them, by which of the two comes
/// out even in batches. It follows from the number of columns alone, as their sums are added up in the sharers' order.
template <class View>
int sharers_shift_of(int k) {
  return k / (16 * View::kSteps) % (8 * kBatch) == 0 ? 3 : 2;
}

}  // namespace nibble
