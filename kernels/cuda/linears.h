// Linears of one x, each row by the path that its segment's length asks for.
#pragma once

#include <span>

#include "kernels/cuda/linear_fused.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/ways.h"

namespace nibble {

/// Consecutive rows of segments of one length.
struct RowRun {
  int first, rows;
  Length length;
};

/// A LayerNorm on the way into linears, and where its result goes.
struct Normed {
  const LayerNorm& norm;
  Tensor y;
};

/// `norm` may be null. `memory` has expand_bytes() of room.
template <class T>
void linears(const Launch& launch, Matmul& matmul, const WorkingMemory& memory, const Normed* norm, Tensor x,
             std::span<const RowRun> runs, std::span<const Projection> projections);

/// What `linears` does with rows of segments of each length, where so many weights like this one stand together.
template <class T>
std::vector<LinearWay> linear_ways(const Launch& launch, const Weight& weight, int together);

/// Room for weights of up to `most_cols` columns, or rows of x as wide.
std::size_t expand_bytes(int most_cols);

}  // namespace nibble
