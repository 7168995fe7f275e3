// What happens to single rows: embedding, LayerNorm, gathering.
#pragma once

#include "kernels/cuda/attention.h"
#include "kernels/cuda/linear.h"

namespace nibble {

/// y[r] = table[indices[r] + offset], added to y where `add`. Where there is `chosen`, chosen_before(i) is chosen[i].
template <class T>
void look_up_rows(const Launch& launch, const Weight& table, const int* indices, const int* chosen, int offset,
                  bool add, Tensor y);

template <class T>
void normalise_rows(const Launch& launch, const LayerNorm& norm, Tensor x, Tensor y);

/// y[i] = x[rows[i]]
void gather_rows(const Launch& launch, Tensor x, const int* rows, Tensor y);

}  // namespace nibble
