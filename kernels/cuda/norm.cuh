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

/// Threads of every block that normalises, so that sums have the same order in all kernels.
inline constexpr int kNormThreads = 256;
inline constexpr int kNormWarps = kNormThreads / 32;

/// Who writes normalised rows to memory: blocks that all stage the same rows leave it to the first.
enum class Writer { kFirstBlock, kEveryBlock };

/// Where rows of x stand in shared memory: `pitch` bytes from row to row, and `gap` more behind each 64 columns.
struct StagedRows {
  char* base;
  int pitch, gap;

  template <class T>
  __device__ __forceinline__ T* at(int row, int col) const {
    return reinterpret_cast<T*>(base + row * pitch + col / 64 * gap) + col;
  }
};

/// Brings the parameters to shared memory, where they are when stage_normed_rows asks for them, whatever else
/// happens until then. `room` has 2 * cols values.
template <class T>
__device__ __forceinline__ void stage_parameters(NormTask<T>& norm, int cols, char* room) {
  constexpr int kValues = 16 / static_cast<int>(sizeof(T));
  const auto stage = [&](const T* parameters, T* place) {
    if (parameters == nullptr) return parameters;
#pragma unroll 1
    for (int col = static_cast<int>(threadIdx.x) * kValues; col < cols; col += kNormThreads * kValues) {
      copy_async(place + col, parameters + col, true);
    }
    return static_cast<const T*>(place);
  };
  norm.weight = stage(norm.weight, reinterpret_cast<T*>(room));
  norm.bias = stage(norm.bias, reinterpret_cast<T*>(room) + cols);
  commit_copies();
}

/// What is known of some columns of a row: their sum, and the squares of their distances from their own mean.
struct Moments {
  float sum, squares;
};

/// Brings rows of x, [rows, cols] with cols a multiple of 8, to shared memory.
template <class T>
__device__ __forceinline__ void stage_rows(const T* x, int rows, int cols, const StagedRows& staged) {
  constexpr int kValues = 16 / static_cast<int>(sizeof(T));
#pragma unroll 1
  for (int row = 0; row < rows; ++row, x += cols) {
#pragma unroll 1
    for (int col = static_cast<int>(threadIdx.x) * kValues; col < cols; col += kNormThreads * kValues) {
      *reinterpret_cast<uint4*>(staged.at<T>(row, col)) = *reinterpret_cast<const uint4*>(x + col);
    }
  }
}

/// The same, normalised, and written to norm.y as well. Parameters are where stage_parameters put them. `scratch` has
/// room for the Moments of kNormWarps warps for each row. Neither a row's result nor its bits depend on the other rows.
/// A thread's squares are counted from its first value, which is no further from the mean than the squares say, so of n
/// columns a thread log2(n) bits are lost: three of 2,048 columns, six of 16,384. Threads' and warps' are brought
/// together as in Chan, Golub and LeVeque (1983); epsilon and rounding as in torch.
template <class T, Writer kWriter>
__device__ __forceinline__ void stage_normed_rows(const T* x, int rows, int cols, const NormTask<T>& norm,
                                                  const StagedRows& staged, Moments* scratch) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int begin = static_cast<int>(threadIdx.x) * 8;
  constexpr int kStride = kNormThreads * 8;
  const auto columns_of = [&](int w) {  // how many columns a warp has
    const int rest = cols % kStride - w * 256;
    return static_cast<float>(cols / kStride * 256 + min(max(rest, 0), 256));
  };
  const float own_columns = columns_of(warp);
  const float thread_columns = static_cast<float>(begin < cols ? ((cols - begin - 1) / kStride + 1) * 8 : 0);
#pragma unroll 1
  for (int row = 0; row < rows; ++row) {
    float first = 0, sum = 0, squares = 0;  // of distances from the first
#pragma unroll 1
    for (int col = begin; col < cols; col += kStride) {
      float v[8];
      load8(x + static_cast<std::int64_t>(row) * cols + col, v);
      store8(staged.at<T>(row, col), v);
      if (col == begin) first = v[0];
#pragma unroll
      for (float& value : v) {
        value -= first;
        squares = fmaf(value, value, squares);
      }
      sum += ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
    }
    // From here on about the threads' own means, then the warp's.
    const float apart = thread_columns > 0 ? __fdividef(sum, thread_columns) : 0.0F;
    squares = fmaf(-sum, apart, squares);
    const float mean = first + apart;
    const float total = warp_sum(thread_columns * mean);
    const float distance = mean - (own_columns > 0 ? __fdividef(total, own_columns) : 0.0F);
    squares = warp_sum(thread_columns > 0 ? fmaf(thread_columns * distance, distance, squares) : 0.0F);
    if (lane == 0) scratch[row * kNormWarps + warp] = {total, squares};
  }
  constexpr float kEpsilon = 1e-5F;
  const float share = __frcp_rn(static_cast<float>(cols));
  wait_for_copies<0>();  // of parameters
  __syncthreads();
  const float columns = columns_of(lane % kNormWarps);
#pragma unroll 1
  for (int row = 0; row < rows; ++row) {
    // Lanes have a warp's moments each; every eight of them do the same.
    const Moments part = scratch[row * kNormWarps + lane % kNormWarps];
    const auto total = [](float v) {
#pragma unroll
      for (int step = kNormWarps / 2; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffU, v, step);
      return v;
    };
    const float mean = total(part.sum) * share;
    const float apart = columns > 0 ? __fdividef(part.sum, columns) - mean : 0.0F;
    const float scale = rsqrtf(fmaf(total(fmaf(columns, apart * apart, part.squares)), share, kEpsilon));
#pragma unroll 1
    for (int col = begin; col < cols; col += kStride) {
      float v[8], parameters[8];
      load8(staged.at<T>(row, col), v);
#pragma unroll
      for (float& value : v) value = (value - mean) * scale;
      if (norm.weight != nullptr) {
        load8(norm.weight + col, parameters);
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] *= parameters[i];
      }
      if (norm.bias != nullptr) {
        load8(norm.bias + col, parameters);
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] += parameters[i];
      }
      store8(staged.at<T>(row, col), v);
      if (kWriter == Writer::kEveryBlock || blockIdx.x == 0)
        store8(norm.y + static_cast<std::int64_t>(row) * cols + col, v);
    }
  }
}

}  // namespace nibble
