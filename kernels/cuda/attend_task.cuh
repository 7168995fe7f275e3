// What every kernel of attention is given, and how rows come into the cache.
#pragma once

#include "kernels/cuda/attention.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"

namespace nibble {

template <class T>
struct AttendTask {
  const T *q, *k, *v;  ///< [rows, heads * head_dim]
  T *keys, *values;    ///< this layer's part of the cache, [sequences, heads, context, head_dim]
  T* y;                ///< [rows, heads * head_dim]
  int heads, head_dim, context;
  DeviceBatch batch;

  __device__ std::int64_t cached(int sequence, int head) const {
    return (static_cast<std::int64_t>(sequence) * heads + head) * context * head_dim;
  }
  __device__ std::int64_t row(int r, int head) const {
    return static_cast<std::int64_t>(r) * heads * head_dim + head * head_dim;
  }
};

namespace {

/// Copies all rows of k and v to where the cache keeps each head's.
template <class T>
__global__ void append_kernel(const __grid_constant__ AttendTask<T> task) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  const int row = blockIdx.x;
  const int width = task.heads * task.head_dim;
  for (int i = threadIdx.x; i < width; i += blockDim.x) {
    const std::int64_t place = task.cached(task.batch.sequence_of[row], i / task.head_dim) +
                               static_cast<std::int64_t>(task.batch.slot_of[row]) * task.head_dim + i % task.head_dim;
    const std::int64_t from = static_cast<std::int64_t>(row) * width + i;
    task.keys[place] = task.k[from];
    task.values[place] = task.v[from];
  }
}

}  // namespace

template <class T>
void append_to_cache(const Launch& launch, int rows, const AttendTask<T>& task) {
  launch_overlapped(launch, append_kernel<T>, dim3(static_cast<unsigned>(rows)), 256, 0, task);
}

}  // namespace nibble
