// Attention of segments of several rows: tiles of 128 queries and 48 keys on the tensor cores with a running softmax
// (arXiv:2307.08691), probabilities rounded to T once, as transformers does.
#pragma once

#include "kernels/cuda/attend_task.cuh"
#include "kernels/cuda/ptx.cuh"

namespace nibble {
namespace {

/// Sixteen queries are a strip; a warp has two, so that what it reads of keys and values serves both.
constexpr int kStrips = 2, kTileWarps = 4, kTileKeys = 48;
constexpr int kTileQueries = 16 * kStrips * kTileWarps;

template <class T, int kHeadDim>
__global__ void __launch_bounds__(32 * kTileWarps) attend_tiles_kernel(const __grid_constant__ AttendTask<T> task) {
  constexpr int kThreads = 32 * kTileWarps;
  constexpr int kPitch = kHeadDim + 8;  // in T; shifts the banks of neighbouring rows
  constexpr int kChunks = kHeadDim / 8;
  extern __shared__ __align__(128) char shared[];
  T* const queries_tile = reinterpret_cast<T*>(shared);       // [kTileQueries][kPitch]
  T* const keys_tile = queries_tile + kTileQueries * kPitch;  // [2][kTileKeys][kPitch]
  T* const values_tile = keys_tile + 2 * kTileKeys * kPitch;  // [2][kTileKeys][kPitch]
  let_next_kernel_start();
  wait_for_previous_kernel();
  const Segment segment = task.batch.segments[blockIdx.z];
  // The last queries see the most keys and come first, those of all heads.
  const int tiles = (segment.rows + kTileQueries - 1) / kTileQueries;
  const int tile = tiles - 1 - static_cast<int>(blockIdx.y);
  if (segment.rows == 1 || tile < 0) return;
  const int head = blockIdx.x;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int first_query = tile * kTileQueries;
  const std::int64_t place = task.cached(segment.sequence, head);
  const int keys = segment.past + min(first_query + kTileQueries, segment.rows);

  const auto fetch = [&](int begin, int turn) {
    for (int i = threadIdx.x; i < kTileKeys * kChunks; i += kThreads) {
      const int row = i / kChunks, chunk = i % kChunks;
      const bool there = begin + row < keys;
      const std::int64_t at = place + static_cast<std::int64_t>(there ? begin + row : 0) * kHeadDim + chunk * 8;
      copy_async(keys_tile + (turn * kTileKeys + row) * kPitch + chunk * 8, task.keys + at, there);
      copy_async(values_tile + (turn * kTileKeys + row) * kPitch + chunk * 8, task.values + at, there);
    }
    commit_copies();
  };
  for (int i = threadIdx.x; i < kTileQueries * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const bool there = first_query + row < segment.rows;
    copy_async(queries_tile + row * kPitch + chunk * 8,
               task.q + task.row(segment.first_row + (there ? first_query + row : 0), head) + chunk * 8, there);
  }
  fetch(0, 0);  // and the queries

  // Keys that the first of the warp's rows sees; row g of a strip's rows g and g + 8 sees lane / 4 more.
  const int warp_query = first_query + warp * 16 * kStrips, seen_by_all = segment.past + warp_query + 1;
  const T* const q_rows = queries_tile + (warp * 16 * kStrips + lane % 16) * kPitch + lane / 16 * 8;
  float largest[kStrips][2], sum[kStrips][2] = {};
#pragma unroll
  for (float(&two)[2] : largest) two[0] = two[1] = -INFINITY;
  float mix[kStrips][kHeadDim / 8][4] = {};
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

    float scores[kStrips][kTileKeys / 8][4] = {};
#pragma unroll
    for (int d = 0; d < kHeadDim / 16; ++d) {
      std::uint32_t q[kStrips][4];
#pragma unroll
      for (int s = 0; s < kStrips; ++s) load_matrices(q[s], shared_address(q_rows + s * 16 * kPitch + d * 16));
#pragma unroll
      for (int n = 0; n < kTileKeys / 16; ++n) {
        std::uint32_t b[4];  // keys 16 n .. + 8: 0 and 1, + 8 .. + 16: 2 and 3
        load_matrices(b, shared_address(k + (n * 16 + lane / 16 * 8 + lane % 8) * kPitch + d * 16 + lane / 8 % 2 * 8));
#pragma unroll
        for (int s = 0; s < kStrips; ++s) {
          mma<T>(scores[s][2 * n], q[s], b[0], b[1]);
          mma<T>(scores[s][2 * n + 1], q[s], b[2], b[3]);
        }
      }
    }
    if (begin + kTileKeys > seen_by_all) {
#pragma unroll
      for (int s = 0; s < kStrips; ++s) {
        const int seen = seen_by_all + 16 * s + lane / 4;
#pragma unroll
        for (int n = 0; n < kTileKeys / 8; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            if (begin + n * 8 + lane % 4 * 2 + i % 2 >= seen + i / 2 * 8) scores[s][n][i] = -INFINITY;
          }
        }
      }
    }
#pragma unroll
    for (int s = 0; s < kStrips; ++s) {
      float shrink[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float larger = largest[s][half];
#pragma unroll
        for (const float(&four)[4] : scores[s]) larger = fmaxf(larger, fmaxf(four[2 * half], four[2 * half + 1]));
        larger = fmaxf(larger, __shfl_xor_sync(0xffffffffU, larger, 1));
        larger = fmaxf(larger, __shfl_xor_sync(0xffffffffU, larger, 2));
        shrink[half] = exponential(largest[s][half] - larger);  // every row sees the first key, so `larger` is finite
        largest[s][half] = larger;
        sum[s][half] *= shrink[half];
#pragma unroll
        for (float(&four)[4] : scores[s]) {
#pragma unroll
          for (int i = 2 * half; i < 2 * half + 2; ++i) sum[s][half] += four[i] = exponential(four[i] - larger);
        }
      }
      // Most tiles have no score that is larger than all before.
      if (__any_sync(0xffffffffU, shrink[0] != 1 || shrink[1] != 1)) {
#pragma unroll
        for (float(&four)[4] : mix[s]) {
#pragma unroll
          for (int i = 0; i < 4; ++i) four[i] *= shrink[i / 2];
        }
      }
    }
#pragma unroll
    for (int n = 0; n < kTileKeys / 16; ++n) {
      std::uint32_t p[kStrips][4];
#pragma unroll
      for (int s = 0; s < kStrips; ++s) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          p[s][i] = pack2<T>(scores[s][2 * n + i / 2][i % 2 * 2], scores[s][2 * n + i / 2][i % 2 * 2 + 1]);
        }
      }
#pragma unroll
      for (int d = 0; d < kHeadDim / 16; ++d) {
        std::uint32_t b[4];  // dims 16 d .. + 8: 0 and 1, + 8 .. + 16: 2 and 3
        load_matrices_transposed(b, shared_address(v + (n * 16 + lane % 16) * kPitch + d * 16 + lane / 16 * 8));
#pragma unroll
        for (int s = 0; s < kStrips; ++s) {
          mma<T>(mix[s][2 * d], p[s], b[0], b[1]);
          mma<T>(mix[s][2 * d + 1], p[s], b[2], b[3]);
        }
      }
    }
    __syncthreads();
  }

#pragma unroll
  for (int s = 0; s < kStrips; ++s) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float& whole = sum[s][half];
      whole += __shfl_xor_sync(0xffffffffU, whole, 1);
      whole += __shfl_xor_sync(0xffffffffU, whole, 2);
      const int row = warp_query + s * 16 + lane / 4 + half * 8;
      if (row >= segment.rows) continue;
      T* const y = task.y + task.row(segment.first_row + row, head) + lane % 4 * 2;
      const float scale = 1.0F / whole;
#pragma unroll
      for (int d = 0; d < kHeadDim / 8; ++d) {
        const float(&four)[4] = mix[s][d];
        *reinterpret_cast<std::uint32_t*>(y + d * 8) = pack2<T>(four[2 * half] * scale, four[2 * half + 1] * scale);
      }
    }
  }
}

template <class T, int kHeadDim>
void launch_tiles(const Launch& launch, const BatchShape& shape, const AttendTask<T>& task) {
  constexpr int kShared = (kTileQueries + 4 * kTileKeys) * (kHeadDim + 8) * static_cast<int>(sizeof(T));
  constexpr auto kKernel = attend_tiles_kernel<T, kHeadDim>;
  allow_shared_memory<kKernel>();
  const dim3 grid(static_cast<unsigned>(task.heads),
                  static_cast<unsigned>((shape.longest + kTileQueries - 1) / kTileQueries),
                  static_cast<unsigned>(shape.segments));
  launch_overlapped(launch, kKernel, grid, 32 * kTileWarps, kShared, task);
}

}  // namespace

template <class T>
void attend_tiles(const Launch& launch, const BatchShape& shape, const AttendTask<T>& task) {
  with_head_dim(task.head_dim, [&](auto head_dim) { launch_tiles<T, head_dim>(launch, shape, task); });
}

}  // namespace nibble
