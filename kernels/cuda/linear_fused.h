// The fused way, for the file that decides who goes it.
#pragma once

#include "kernels/cuda/linear_parts.cuh"
#include "kernels/cuda/ways.h"

namespace nibble {

/// Memory that linears work in.
struct WorkingMemory {
  std::span<std::byte> room;
  /// Of kMostPairs pairs of blocks, how many warpgroups' sums are there (linear_fused.cuh). 0 while no kernel runs.
  int* counts;

  static constexpr int kMostGroups = 4;  ///< warpgroups that multiply in a block
  static constexpr std::size_t kCountBytes = kMostPairs * kMostGroups * sizeof(int);
};

/// Any number of rows of x times up to kMostProjections weights of one layout and shape, on a Hopper GPU. `norm` may be
/// null; rows that it normalises have at most kMostNormColumns. `split` is what fused_split() says.
template <class T, class Layout>
void linear_fused(const Launch& launch, const WorkingMemory& memory, const NormView<T>* norm, Tensor x, int first_row,
                  int rows, Split split, std::span<const Projection> projections);

/// How many batches of tiles each sharer has, 0 where they do not come out even.
template <class View>
int batches_of_sharer(int k) {
  const int columns = 16 * View::kSteps * kBatch << sharers_shift_of<View>(k);
  return k % columns == 0 ? k / columns : 0;
}

/// Rows of short segments together, more than linear_few takes, with its bits. batches_of_sharer() says whether columns
/// can be divided so.
template <class T, class Layout>
void linear_crowd(const Launch& launch, const WorkingMemory& memory, const NormView<T>* norm, Tensor x, int first_row,
                  int rows, std::span<const Projection> projections);

}  // namespace nibble
