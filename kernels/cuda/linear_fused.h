// The fused way, for the file that decides who goes it.
#pragma once

#include "kernels/cuda/linear.h"

namespace nibble {

/// Any number of rows of x times up to kMostProjections weights of one layout and shape, on a Hopper GPU. `split`:
/// into how many parts their columns are divided, 1, 2, 4 or 8. `room` has kExpandBytes.
template <class T, class Layout>
void linear_fused(const Launch& launch, std::byte* room, Tensor x, int first_row, int rows, int split,
                  std::span<const Projection> projections);

}  // namespace nibble
