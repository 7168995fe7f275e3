// The fused way, for the file that decides who goes it.
#pragma once

#include "kernels/cuda/linear.h"

namespace nibble {

/// Any number of rows of x times up to kMostProjections weights of one layout and shape, on a Hopper GPU. `norm` may be
/// null; rows that it normalises have at most kMostNormColumns. `split`: into how many parts columns are divided.
/// `room` holds kWide rows of x or more.
template <class T, class Layout>
void linear_fused(const Launch& launch, std::span<std::byte> room, const NormView<T>* norm, Tensor x, int first_row,
                  int rows, int split, std::span<const Projection> projections);

}  // namespace nibble
