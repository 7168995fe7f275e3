// More rows of short segments than linear_few.cuh takes: the kernel of linear_fused.cuh, with the bits of that one. So
// weights are read once for all rows, and not once for every sixteen.
#pragma once

#include "kernels/cuda/linear_fused.cuh"

namespace nibble {

template <class T, class Layout>
void linear_crowd(const Launch& launch, const WorkingMemory& memory, const NormView<T>* norm, Tensor x, int first_row,
                  int rows, std::span<const Projection> projections) {
  using View = TileView<Layout>;
  const auto multiply = [&](FusedTask<Layout, T>& task) {
    const auto parts = static_cast<int>(projections.size());
    const CrowdTiling tiling =
        crowd_tiling(parts, task.parts[0].weight.n, x.cols, task.rows, 1 << sharers_shift_of<View>(x.cols));
    task.split = tiling.split;
    task.products = batches_of_sharer<View>(x.cols);
    launch_tile<SharedProducts, kCrowdTiles, Layout, T>(tiling.tile, launch, task, parts);
  };
  in_lines<T, Layout>(launch, memory, beside_sums(memory), norm, x, first_row, rows, rows, projections, multiply);
}

#define NIBBLE_CROWD(T, ...)                                                                                       \
  template void linear_crowd<T, __VA_ARGS__>(const Launch&, const WorkingMemory&, const NormView<T>*, Tensor, int, \
                                             int, std::span<const Projection>);

}  // namespace nibble
