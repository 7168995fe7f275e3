// LayerNorm by one block: rows go to shared memory, are normalised there, and may be written out as well.
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

/// Who writes normalised rows to memory: blocks that all stage the same rows leave it to the first.
enum class Writer { kFirstBlock, kEveryBlock };

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

/// Sends the parameters to two rows of shared memory, one group of copies; what normalises finds them there.
template <class T>
__device__ __forceinline__ void stage_parameters(NormTask<T>& norm, int cols, const StagedRows& staged) {
  constexpr int kValues = 16 / static_cast<int>(sizeof(T));
  const auto stage = [&](const T* parameters, int row) {
    if (parameters == nullptr) return parameters;
#pragma unroll 1
    for (int col = static_cast<int>(threadIdx.x) * kValues; col < cols; col += kNormThreads * kValues) {
      copy_async(staged.at<T>(row, col), parameters + col, true);
    }
    return static_cast<const T*>(staged.at<T>(row, 0));
  };
  norm.weight = stage(norm.weight, 0);
  norm.bias = stage(norm.bias, 1);
  norm.gap = staged.gap;
  commit_copies();
}

/// What is known of some columns of a row: their sum, and the squares of their distances from their own mean.
struct Moments {
  float sum, squares;
};

/// Columns of a row that a thread has, by eights: from `first_column()` on, kNormStride apart.
inline constexpr int kNormStride = kNormThreads * 8;
__device__ __forceinline__ int first_column() { return static_cast<int>(threadIdx.x) * 8; }

/// Sends rows of x, [rows, cols] with cols a multiple of 8, to shared memory, each thread its columns: a group of
/// copies.
template <class T>
__device__ __forceinline__ void stage_rows(const T* x, int rows, int cols, const StagedRows& staged) {
#pragma unroll 1
  for (int row = 0; row < rows; ++row, x += cols) {
#pragma unroll 1
    for (int col = first_column(); col < cols; col += kNormStride) {
      const std::uint32_t to = shared_address(staged.at<T>(row, col));
      copy_async<16>(to, x + col);
      if constexpr (sizeof(T) == 4) copy_async<16>(to + 16, x + col + 4);
    }
  }
  commit_copies();
}

/// The same, normalised, and written to norm.y as well. Parameters are where stage_parameters put them, and have come.
/// `scratch` has room for the Moments of kNormWarps warps for each row. Neither a row's result nor its bits depend on
/// the other rows. A thread's squares are counted from its first value, which is no further from the mean than the
/// squares say, so of n columns a thread log2(n) bits are lost: three of 2,048 columns, six of 16,384. Threads' and
/// warps' are brought together as in Chan, Golub and LeVeque (1983); epsilon and rounding as in torch.
template <class T, Writer kWriter>
__device__ __forceinline__ void stage_normed_rows(const T* x, int rows, int cols, const NormTask<T>& norm,
                                                  const StagedRows& staged, Moments* scratch) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const auto columns_of = [&](int w) {  // how many columns a warp has
    const int rest = cols % kNormStride - w * 256;
    return static_cast<float>(cols / kNormStride * 256 + min(max(rest, 0), 256));
  };
  const auto mean_of = [](float sum, float columns) { return columns > 0 ? __fdividef(sum, columns) : 0.0F; };
  const int begin = first_column();
  const float own_columns = columns_of(warp);
  const float thread_columns = static_cast<float>(begin < cols ? ((cols - begin - 1) / kNormStride + 1) * 8 : 0);
  stage_rows(x, rows, cols, staged);
  wait_for_copies<0>();
#pragma unroll 1
  for (int row = 0; row < rows; ++row) {
    float first = 0, sum = 0, squares = 0;  // of distances from the first
#pragma unroll 1
    for (int col = begin; col < cols; col += kNormStride) {
      float v[8];
      load8(staged.at<T>(row, col), v);
      if (col == begin) first = v[0];
#pragma unroll
      for (float& value : v) {
        value -= first;
        squares = fmaf(value, value, squares);
      }
      sum += ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
    }
    // From here on about the threads' own means, then the warp's.
    const float apart = mean_of(sum, thread_columns);
    squares = fmaf(-sum, apart, squares);
    const float mean = first + apart;
    const float total = warp_sum(thread_columns * mean);
    const float distance = mean - mean_of(total, own_columns);
    squares = warp_sum(thread_columns > 0 ? fmaf(thread_columns * distance, distance, squares) : 0.0F);
    if (lane == 0) scratch[row * kNormWarps + warp] = {total, squares};
  }
  constexpr float kEpsilon = 1e-5F;
  const float share = __frcp_rn(static_cast<float>(cols));
  __syncthreads();
#pragma unroll 1
  for (int row = 0; row < rows; ++row) {
    const Moments* const parts = scratch + row * kNormWarps;
    float mean = 0, squares = 0;
#pragma unroll
    for (int w = 0; w < kNormWarps; ++w) mean += parts[w].sum;
    mean *= share;
#pragma unroll
    for (int w = 0; w < kNormWarps; ++w) {
      const float columns = columns_of(w), apart = mean_of(parts[w].sum, columns) - mean;
      squares += fmaf(columns, apart * apart, parts[w].squares);
    }
    const float scale = rsqrtf(fmaf(squares, share, kEpsilon));
#pragma unroll 1
    for (int col = begin; col < cols; col += kNormStride) {
      float v[8], parameters[8];
      load8(staged.at<T>(row, col), v);
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
      store8(staged.at<T>(row, col), v);
      if (kWriter == Writer::kEveryBlock || blockIdx.x == 0)
        store8(norm.y + static_cast<std::int64_t>(row) * cols + col, v);
    }
  }
}

}  // namespace nibble
