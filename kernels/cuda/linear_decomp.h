// LLM.int8()'s way, for the file that decides who goes it.
#pragma once

#include "kernels/cuda/linear.h"

namespace nibble {

/// Any number of rows of x times up to kMostProjections Int8Decomp weights of any shape, all in tiles or none. `room`
/// has decomp_bytes(kTileRows, k) or more. A row's bits do not depend on how many there are.
template <class T>
void linear_decomp(const Launch& launch, std::span<std::byte> room, Tensor x, int first_row, int rows,
                   std::span<const Projection> projections);

/// Bytes of working memory for rows of x of k columns, taken apart.
std::size_t decomp_bytes(int rows, int k);

}  // namespace nibble
