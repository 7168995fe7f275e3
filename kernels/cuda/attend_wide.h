// Attention of segments of several rows on a Hopper GPU, for the file that decides who goes there.
#pragma once

#include "kernels/cuda/attend_task.cuh"

namespace nibble {

/// All segments of the batch that have more than one row, whose k and v are appended on the way; heads of 64, 80, 96 or
/// 128 numbers of 16 bits.
template <class T>
void attend_wide(const Launch& launch, const BatchShape& shape, const AttendTask<T>& task);

}  // namespace nibble
