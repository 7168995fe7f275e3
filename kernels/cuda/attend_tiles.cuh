// Attention of segments of several rows: tiles of 64 queries and 64 keys on the tensor cores with a running softmax
// (arXiv:2307.08691), probabilities rounded to T once, as transformers does.
#pragma once

#include "kernels/cuda/attend_task.cuh"
#include "kernels/cuda/ptx.cuh"

namespace nibble {
namespace {

constexpr int kTileQueries = 64, kTileKeys = 64;

/// Sums of 16 queries and 64 keys, or 16 queries and the head's dims.
template <int kColumns>
using Strip = float[kColumns / 8][4];

template <class T, int kHeadDim>
__global__ void __launch_bounds__(128) attend_tiles_kernel(const __grid_constant__ AttendTask<T> task) {
  constexpr int kPitch = kHeadDim + 8;  // in T; shifts the banks of neighbouring rows
  constexpr int kChunks = kHeadDim / 8;
  extern __shared__ __align__(128) char shared[];
  T* const keys_tile = reinterpret_cast<T*>(shared);          // [2][kTileKeys][kPitch]
  T* const values_tile = keys_tile + 2 * kTileKeys * kPitch;  // [2][kTileKeys][kPitch]
  let_next_kernel_start();
  wait_for_previous_kernel();
  const Segment segment = task.batch.segments[blockIdx.z];
  // The last queries see the most keys and come first.
  const int tiles = (segment.rows + kTileQueries - 1) / kTileQueries;
  const int tile = tiles - 1 - static_cast<int>(blockIdx.x);
  if (segment.rows == 1 || tile < 0) return;
  const int head = blockIdx.y;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int first_query = tile * kTileQueries;
  const std::int64_t place = task.cached(segment.sequence, head);
  const int keys = segment.past + min(first_query + kTileQueries, segment.rows);

  // Queries pass through the room of the first keys.
  for (int i = threadIdx.x; i < kTileQueries * kChunks; i += 128) {
    const int row = i / kChunks, chunk = i % kChunks;
    const bool there = first_query + row < segment.rows;
    copy_async(keys_tile + row * kPitch + chunk * 8,
               task.q + task.row(segment.first_row + (there ? first_query + row : 0), head) + chunk * 8, there);
  }
  commit_copies();
  wait_for_copies<0>();
  __syncthreads();
  std::uint32_t q[kHeadDim / 16][4];
#pragma unroll
  for (int d = 0; d < kHeadDim / 16; ++d) {
    load_matrices(q[d], keys_tile + (warp * 16 + lane % 16) * kPitch + d * 16 + lane / 16 * 8);
  }
  __syncthreads();

  const auto fetch = [&](int begin, int turn) {
    for (int i = threadIdx.x; i < kTileKeys * kChunks; i += 128) {
      const int row = i / kChunks, chunk = i % kChunks;
      const bool there = begin + row < keys;
      const std::int64_t at = place + static_cast<std::int64_t>(there ? begin + row : 0) * kHeadDim + chunk * 8;
      copy_async(keys_tile + (turn * kTileKeys + row) * kPitch + chunk * 8, task.keys + at, there);
      copy_async(values_tile + (turn * kTileKeys + row) * kPitch + chunk * 8, task.values + at, there);
    }
    commit_copies();
  };

  // Keys that all of the warp's sixteen rows see, and that row g of rows g and g + 8 sees.
  const int seen_by_all = segment.past + first_query + warp * 16 + 1, seen_upper = seen_by_all + lane / 4;
  float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
  Strip<kHeadDim> mix = {};
  fetch(0, 0);
  for (int begin = 0, turn = 0; begin < keys; begin += kTileKeys, turn ^= 1) {
    if (begin + kTileKeys < keys) {
      fetch(begin + kTileKeys, turn ^ 1);
      wait_for_copies<1>();
    } else {
      wait_for_copies<0>();
    }
    __syncthreads();
    const T* const k = keys_tile + turn * kTileKeys * kPitch;
    const T* const v = values_tile + turn * kTileKeys * kPitch;

    Strip<kTileKeys> scores = {};
#pragma unroll
    for (int n = 0; n < kTileKeys / 16; ++n) {
#pragma unroll
      for (int d = 0; d < kHeadDim / 16; ++d) {
        std::uint32_t b[4];  // keys 16 n .. + 8: 0 and 1, + 8 .. + 16: 2 and 3
        load_matrices(b, k + (n * 16 + lane / 16 * 8 + lane % 8) * kPitch + d * 16 + lane / 8 % 2 * 8);
        mma<T>(scores[2 * n], q[d], b[0], b[1]);
        mma<T>(scores[2 * n + 1], q[d], b[2], b[3]);
      }
    }
    if (begin + kTileKeys > seen_by_all) {
#pragma unroll
      for (int n = 0; n < kTileKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int key = begin + n * 8 + lane % 4 * 2 + i % 2;
          if (key >= seen_upper + i / 2 * 8) scores[n][i] = -INFINITY;
        }
      }
    }
    float shrink[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float larger = largest[half];
#pragma unroll
      for (int n = 0; n < kTileKeys / 8; ++n)
        larger = fmaxf(larger, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
      larger = fmaxf(larger, __shfl_xor_sync(0xffffffffU, larger, 1));
      larger = fmaxf(larger, __shfl_xor_sync(0xffffffffU, larger, 2));
      shrink[half] = exponential(largest[half] - larger);  // every row sees the first key, so `larger` is finite
      largest[half] = larger;
      sum[half] *= shrink[half];
#pragma unroll
      for (int n = 0; n < kTileKeys / 8; ++n) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          scores[n][i] = exponential(scores[n][i] - larger);
          sum[half] += scores[n][i];
        }
      }
    }
    // Most tiles have no score that is larger than all before.
    if (__any_sync(0xffffffffU, shrink[0] != 1 || shrink[1] != 1)) {
#pragma unroll
      for (float(&four)[4] : mix)
        four[0] *= shrink[0], four[1] *= shrink[0], four[2] *= shrink[1], four[3] *= shrink[1];
    }
#pragma unroll
    for (int n = 0; n < kTileKeys / 16; ++n) {
      const std::uint32_t p[4] = {
          pack2<T>(scores[2 * n][0], scores[2 * n][1]), pack2<T>(scores[2 * n][2], scores[2 * n][3]),
          pack2<T>(scores[2 * n + 1][0], scores[2 * n + 1][1]), pack2<T>(scores[2 * n + 1][2], scores[2 * n + 1][3])};
#pragma unroll
      for (int d = 0; d < kHeadDim / 16; ++d) {
        std::uint32_t b[4];  // dims 16 d .. + 8: 0 and 1, + 8 .. + 16: 2 and 3
        load_matrices_transposed(b, v + (n * 16 + lane % 16) * kPitch + d * 16 + lane / 16 * 8);
        mma<T>(mix[2 * d], p, b[0], b[1]);
        mma<T>(mix[2 * d + 1], p, b[2], b[3]);
      }
    }
    __syncthreads();
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    sum[half] += __shfl_xor_sync(0xffffffffU, sum[half], 1);
    sum[half] += __shfl_xor_sync(0xffffffffU, sum[half], 2);
    const int row = first_query + warp * 16 + lane / 4 + half * 8;
    if (row >= segment.rows) continue;
    T* const y = task.y + task.row(segment.first_row + row, head) + lane % 4 * 2;
    const float scale = 1.0F / sum[half];
#pragma unroll
    for (int d = 0; d < kHeadDim / 8; ++d) {
      *reinterpret_cast<std::uint32_t*>(y + d * 8) = pack2<T>(mix[d][2 * half] * scale, mix[d][2 * half + 1] * scale);
    }
  }
}

template <class T, int kHeadDim>
void launch_tiles(const Launch& launch, const BatchShape& shape, const AttendTask<T>& task) {
  constexpr int kShared = 4 * kTileKeys * (kHeadDim + 8) * static_cast<int>(sizeof(T));
  constexpr auto kKernel = attend_tiles_kernel<T, kHeadDim>;
  allow_shared_memory<kKernel>();
  const dim3 grid(static_cast<unsigned>((shape.longest + kTileQueries - 1) / kTileQueries),
                  static_cast<unsigned>(task.heads), static_cast<unsigned>(shape.segments));
  launch_overlapped(launch, kKernel, grid, 128, kShared, task);
}

}  // namespace

/// The head sizes it is made for.
inline bool takes_tiles(int head_dim) { return head_dim == 64 || head_dim == 80 || head_dim == 96 || head_dim == 128; }

template <class T>
void attend_tiles(const Launch& launch, const BatchShape& shape, const AttendTask<T>& task) {
  switch (task.head_dim) {
    case 64:
      return launch_tiles<T, 64>(launch, shape, task);
    case 80:
      return launch_tiles<T, 80>(launch, shape, task);
    case 96:
      return launch_tiles<T, 96>(launch, shape, task);
    default:
      return launch_tiles<T, 128>(launch, shape, task);
  }
}

}  // namespace nibble
