// LayerNorm by one block: rows go to shared memory, are normalised there, and may be written out as well.
#pragma once

#include "kernels/cuda/ptx.cuh"

namespace nibble {

template <class T>
struct NormTask {
  const T* weight;  ///< [cols], or null
  const T* bias;    ///< [cols], or null
  T* y;             ///< [rows, cols]
};

/// Threads that normalise: as many in every block that has them, so that sums have the same order in all kernels.
inline constexpr int kNormThreads = 256;

/// Who writes normalised rows to memory: blocks that all stage the same rows leave it to the first.
enum class Writer { kFirstBlock, kEveryBlock };

/// Brings the parameters to shared memory, where they are when stage_rows asks for them, whatever else happens until
/// then. `room` has 2 * cols values.
template <class T>
__device__ void stage_parameters(NormTask<T>& norm, int cols, char* room) {
  constexpr int kValues = 16 / static_cast<int>(sizeof(T));
  const auto stage = [&](const T* parameters, T* place) {
    if (parameters == nullptr) return parameters;
    for (int col = static_cast<int>(threadIdx.x) * kValues; col < cols; col += static_cast<int>(blockDim.x) * kValues) {
      copy_async(place + col, parameters + col, true);
    }
    return static_cast<const T*>(place);
  };
  norm.weight = stage(norm.weight, reinterpret_cast<T*>(room));
  norm.bias = stage(norm.bias, reinterpret_cast<T*>(room) + cols);
  commit_copies();
}

/// Brings rows of x, [rows, cols] with cols a multiple of 8, to shared memory, `pitch` bytes apart, normalised where
/// `norm` is not null, and then writes them to norm->y as well. `scratch` has room for two floats a warp and row.
/// Neither a row's result nor its bits depend on the other rows. Epsilon and order of operations as in torch.
template <class T, Writer kWriter>
__device__ void stage_rows(const T* x, int rows, int cols, const NormTask<T>* norm, char* staged, int pitch,
                           float* scratch) {
  const auto place = [&](int row, int col) { return reinterpret_cast<T*>(staged + row * pitch) + col; };
  const int threads = norm == nullptr ? blockDim.x : min(static_cast<int>(blockDim.x), kNormThreads);
  const int warps = threads / 32;
  const int stride = threads * 8;
  const int begin = static_cast<int>(threadIdx.x) < threads ? static_cast<int>(threadIdx.x) * 8 : cols;
  float* const squares = scratch + rows * warps;
  const auto leave = [&](float* parts, int row, float sum) {
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0 && static_cast<int>(threadIdx.x) < threads) parts[row * warps + threadIdx.x / 32] = sum;
  };
  const auto sum_of = [&](const float* parts, int row) {
    float sum = 0;
    for (int w = 0; w < warps; ++w) sum += parts[row * warps + w];
    return sum;
  };
#pragma unroll 1
  for (int row = 0; row < rows; ++row) {
    float sum = 0;
    for (int col = begin; col < cols; col += stride) {
      float v[8];
      load8(x + static_cast<std::int64_t>(row) * cols + col, v);
      store8(place(row, col), v);
      sum += ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
    }
    if (norm != nullptr) leave(scratch, row, sum);
  }
  if (norm == nullptr) return;

  constexpr float kEpsilon = 1e-5F;
  const float share = __frcp_rn(static_cast<float>(cols));
  wait_for_copies<0>();  // of parameters
  __syncthreads();
#pragma unroll 1
  for (int row = 0; row < rows; ++row) {
    const float mean = sum_of(scratch, row) * share;
    float sum = 0;
    for (int col = begin; col < cols; col += stride) {
      float v[8];
      load8(place(row, col), v);
#pragma unroll
      for (const float value : v) sum = fmaf(value - mean, value - mean, sum);
    }
    leave(squares, row, sum);
  }
  __syncthreads();
#pragma unroll 1
  for (int row = 0; row < rows; ++row) {
    const float mean = sum_of(scratch, row) * share;
    const float scale = rsqrtf(fmaf(sum_of(squares, row), share, kEpsilon));
#pragma unroll 1
    for (int col = begin; col < cols; col += stride) {
      float v[8], parameters[8];
      load8(place(row, col), v);
#pragma unroll
      for (float& value : v) value = (value - mean) * scale;
      if (norm->weight != nullptr) {
        load8(norm->weight + col, parameters);
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] *= parameters[i];
      }
      if (norm->bias != nullptr) {
        load8(norm->bias + col, parameters);
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] += parameters[i];
      }
      store8(place(row, col), v);
      if (kWriter == Writer::kEveryBlock || blockIdx.x == 0)
        store8(norm->y + static_cast<std::int64_t>(row) * cols + col, v);
    }
  }
}

}  // namespace nibble
