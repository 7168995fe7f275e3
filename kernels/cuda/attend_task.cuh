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

/// Copies all rows of k and v to where the cache keeps each head's, in pieces of which a head has a whole number.
template <class T, class Piece>
__global__ void append_kernel(const __grid_constant__ AttendTask<T> task) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  const auto* const k = reinterpret_cast<const Piece*>(task.k);
  const auto* const v = reinterpret_cast<const Piece*>(task.v);
  auto* const keys = reinterpret_cast<Piece*>(task.keys);
  auto* const values = reinterpret_cast<Piece*>(task.values);
  const int row = blockIdx.x, of_head = task.head_dim * static_cast<int>(sizeof(T)) / static_cast<int>(sizeof(Piece));
  const int width = task.heads * of_head;
  const std::int64_t first = static_cast<std::int64_t>(task.batch.sequence_of[row]) * task.heads;
  for (int i = threadIdx.x; i < width; i += blockDim.x) {
    const std::int64_t place = ((first + i / of_head) * task.context + task.batch.slot_of[row]) * of_head + i % of_head;
    const std::int64_t from = static_cast<std::int64_t>(row) * width + i;
    keys[place] = k[from];
    values[place] = v[from];
  }
}

}  // namespace

template <class T>
void append_to_cache(const Launch& launch, int rows, const AttendTask<T>& task) {
  const bool whole = task.head_dim * sizeof(T) % sizeof(uint4) == 0;
  launch_overlapped(launch, whole ? append_kernel<T, uint4> : append_kernel<T, T>, dim3(static_cast<unsigned>(rows)),
                    256, 0, task);
}

/// The head sizes that kernels on the tensor cores are made for.
inline bool takes_tiles(int head_dim) { return head_dim == 64 || head_dim == 80 || head_dim == 96 || head_dim == 128; }

/// Calls `f` with one of them as a constant.
template <class F>
void with_head_dim(int head_dim, F&& f) {
  switch (head_dim) {
    case 64:
      return f(std::integral_constant<int, 64>{});
    case 80:
      return f(std::integral_constant<int, 80>{});
    case 96:
      return f(std::integral_constant<int, 96>{});
    default:
      return f(std::integral_constant<int, 128>{});
  }
}

}  // namespace nibble
