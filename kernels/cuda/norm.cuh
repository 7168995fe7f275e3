// LayerNorm of a row by one block, and how rows come to shared memory.
#pragma once

#include "kernels/cuda/ptx.cuh"

namespace nibble {

template <class T>
struct NormTask {
  const T* weight;  ///< [cols], or null
  const T* bias;    ///< [cols], or null
  T* y;             ///< [rows, cols]
  int gap;          ///< bytes behind each 64 parameters
};

/// Threads of every block that normalises, so that sums have the same order in all kernels.
inline constexpr int kNormThreads = 256;
inline constexpr int kNormWarps = kNormThreads / 32;

/// Columns of a row that a thread has, by eights: from first_column() on, kNormStride apart.
inline constexpr int kNormStride = kNormThreads * 8;
__device__ __forceinline__ int first_column() { return static_cast<int>(threadIdx.x) * 8; }

/// The place of a column where there is a gap of so many bytes behind each 64.
template <class T>
__device__ __forceinline__ T* column_at(T* row, int col, int gap) {
  using Bytes = std::conditional_t<std::is_const_v<T>, const char, char>;
  return reinterpret_cast<T*>(reinterpret_cast<Bytes*>(row + col) + col / 64 * gap);
}

/// Where rows stand in shared memory: `pitch` bytes from row to row, and `gap` more behind each 64 columns.
struct StagedRows {
  char* base;
  int pitch, gap;

  template <class T>
  __device__ __forceinline__ T* at(int row, int col) const {
    return column_at(reinterpret_cast<T*>(base + row * pitch), col, gap);
  }
};

/// Sends rows of x, [rows, cols] with cols a multiple of 8, to shared memory: a group of copies.
template <class T>
__device__ __forceinline__ void send_rows(const T* x, int rows, int cols, const StagedRows& staged) {
  constexpr int kValues = 16 / static_cast<int>(sizeof(T));
#pragma unroll 1
  for (int row = 0; row < rows; ++row, x += cols) {
#pragma unroll 1
    for (int col = static_cast<int>(threadIdx.x) * kValues; col < cols; col += kNormThreads * kValues) {
      copy_async<16>(shared_address(staged.at<T>(row, col)), x + col);
    }
  }
  commit_copies();
}

/// Sends the parameters to two rows of shared memory, where what normalises finds them: a group of copies.
template <class T>
__device__ __forceinline__ void send_parameters(NormTask<T>& norm, int cols, const StagedRows& staged) {
  const auto send = [&](const T* parameters, int row) {
    if (parameters == nullptr) return parameters;
    send_rows(parameters, 1, cols, {staged.base + row * staged.pitch, 0, staged.gap});
    return static_cast<const T*>(staged.at<T>(row, 0));
  };
  norm.weight = send(norm.weight, 0);
  norm.bias = send(norm.bias, 1);
  norm.gap = staged.gap;
}

/// Brings a row to shared memory, each thread its columns, in the time of one trip to memory and without waiting for
/// copies that are under way.
template <class T>
__device__ __forceinline__ void stage_row(const T* x, int cols, char* base, int gap) {
  struct Eight {
    uint4 words[sizeof(T) / 2];
  };
  constexpr int kAtOnce = 16 / static_cast<int>(sizeof(T));
#pragma unroll 1
  for (int begin = first_column(); begin < cols; begin += kAtOnce * kNormStride) {
    Eight eights[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int col = begin + i * kNormStride;
      if (col < cols) eights[i] = *reinterpret_cast<const Eight*>(x + col);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int col = begin + i * kNormStride;
      if (col < cols) *reinterpret_cast<Eight*>(column_at(reinterpret_cast<T*>(base), col, gap)) = eights[i];
    }
  }
}

/// The sum over a block's threads, in the same order in every thread. `scratch` has room for a number of each warp, and
/// is not used again before all threads have met.
__device__ __forceinline__ float block_sum(float v, float* scratch) {
  v = warp_sum(v);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
  __syncthreads();
  float sums[kNormWarps];
#pragma unroll
  for (int w = 0; w < kNormWarps; ++w) sums[w] = scratch[w];
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

/// What normalising needs in shared memory, in floats.
inline constexpr int kNormScratch = 2 * kNormWarps;

/// Normalises the row at `base`, which stage_row has brought, and hands each eight columns to `put`, which is called
/// with a column and its values. Mean, then squares of distances from it; epsilon and rounding as in torch.
template <class T, class Put>
__device__ __forceinline__ void normalise_row(const char* base, int gap, int cols, const NormTask<T>& norm,
                                              float* scratch, const Put& put) {
  constexpr float kEpsilon = 1e-5F;
  const float share = __frcp_rn(static_cast<float>(cols));
  const auto at = [&](int col) { return column_at(reinterpret_cast<const T*>(base), col, gap); };
  float v[8], sum = 0, squares = 0;
#pragma unroll 1
  for (int col = first_column(); col < cols; col += kNormStride) {
    load8(at(col), v);
    sum += ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
  }
  const float mean = block_sum(sum, scratch) * share;
#pragma unroll 1
  for (int col = first_column(); col < cols; col += kNormStride) {
    load8(at(col), v);
#pragma unroll
    for (float& value : v) value -= mean, value *= value;
    squares += ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
  }
  const float scale = rsqrtf(fmaf(block_sum(squares, scratch + kNormWarps), share, kEpsilon));
#pragma unroll 1
  for (int col = first_column(); col < cols; col += kNormStride) {
    float parameters[8];
    load8(at(col), v);
#pragma unroll
    for (float& value : v) value = (value - mean) * scale;
    if (norm.weight != nullptr) {
      load8(column_at(norm.weight, col, norm.gap), parameters);
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] *= parameters[i];
    }
    if (norm.bias != nullptr) {
      load8(column_at(norm.bias, col, norm.gap), parameters);
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] += parameters[i];
    }
    put(col, v);
  }
}

}  // namespace nibble
