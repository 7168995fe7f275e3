// Attention of any head size and dtype, one warp a query: slow, and right for what the other ways do not take.
#pragma once

#include "kernels/cuda/attend_task.cuh"
#include "kernels/cuda/ptx.cuh"

namespace nibble {
namespace {

constexpr int kMostPlainDims = kMostHeadDim / 32;  // a lane's share of a head

template <class T>
__global__ void attend_plain_kernel(const __grid_constant__ AttendTask<T> task, int fewest_rows) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  const Segment segment = task.batch.segments[blockIdx.z];
  const int query = static_cast<int>(blockIdx.x), head = blockIdx.y;
  if (segment.rows < fewest_rows || query >= segment.rows) return;
  const int lane = threadIdx.x;
  const int row = segment.first_row + query, keys = segment.past + query + 1;
  const std::int64_t place = task.cached(segment.sequence, head);
  float q[kMostPlainDims], mix[kMostPlainDims] = {};
#pragma unroll
  for (int i = 0; i < kMostPlainDims; ++i) {
    const int d = lane + 32 * i;
    q[i] = d < task.head_dim ? to_f32(task.q[task.row(row, head) + d]) : 0.0F;
  }
  float largest = -INFINITY, sum = 0;
  for (int key = 0; key < keys; ++key) {
    const T* const k = task.keys + place + static_cast<std::int64_t>(key) * task.head_dim;
    const T* const v = task.values + place + static_cast<std::int64_t>(key) * task.head_dim;
    float dot = 0;
#pragma unroll
    for (int i = 0; i < kMostPlainDims; ++i) {
      const int d = lane + 32 * i;
      if (d < task.head_dim) dot = fmaf(q[i], to_f32(k[d]), dot);
    }
    const float score = warp_sum(dot);
    const float larger = fmaxf(largest, score);
    const float shrink = expf(largest - larger), weight = expf(score - larger);
    largest = larger;
    sum = fmaf(sum, shrink, weight);
#pragma unroll
    for (int i = 0; i < kMostPlainDims; ++i) {
      const int d = lane + 32 * i;
      if (d < task.head_dim) mix[i] = fmaf(weight, to_f32(v[d]), mix[i] * shrink);
    }
  }
#pragma unroll
  for (int i = 0; i < kMostPlainDims; ++i) {
    const int d = lane + 32 * i;
    if (d < task.head_dim) task.y[task.row(row, head) + d] = from_f32<T>(mix[i] / sum);
  }
}

}  // namespace

/// Segments of at least `fewest_rows`.
template <class T>
void attend_plain(const Launch& launch, const BatchShape& shape, int fewest_rows, const AttendTask<T>& task) {
  const dim3 grid(static_cast<unsigned>(shape.longest), static_cast<unsigned>(task.heads),
                  static_cast<unsigned>(shape.segments));
  launch_overlapped(launch, attend_plain_kernel<T>, grid, 32, 0, task, fewest_rows);
}

}  // namespace nibble
