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

/// How far apart a thread's columns of a row are, by eights.
inline constexpr int kNormStride = kNormThreads * 8;

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

/// Sends the parameters to two rows of shared memory, where what normalises finds them: a group of copies for each.
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

/// Brings a row to shared memory, 16 bytes to place(column), in the time of one trip to memory, without waiting for
/// copies that are under way.
template <class T, class Place>
__device__ __forceinline__ void stage_row(const T* x, int cols, const Place& place) {
  constexpr int kValues = 16 / static_cast<int>(sizeof(T)), kAtOnce = 4, kStride = kNormThreads * kValues;
#pragma unroll 1
  for (int begin = static_cast<int>(threadIdx.x) * kValues; begin < cols; begin += kAtOnce * kStride) {
    uint4 values[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (begin + i * kStride < cols) values[i] = *reinterpret_cast<const uint4*>(x + begin + i * kStride);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int col = begin + i * kStride;
      if (col < cols) *reinterpret_cast<uint4*>(place(col)) = values[i];
    }
  }
}

/// What is known of a warp's columns of a row.
struct Moments {
  float mean, squares;  ///< of distances from the mean
  float columns;
};

__device__ __forceinline__ float sum_of(const float (&v)[8]) {
  return ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
}

/// Normalises a row of x of up to kTurns * kNormStride columns, a multiple of 8, and hands each eight columns to `put`,
/// which is called with a column and its values. `scratch` has room for kNormWarps. Squares are of distances from a
/// warp's mean; warps are brought together as in Chan, Golub and LeVeque (1983); epsilon and rounding as in torch.
template <int kTurns, class T, class Put>
__device__ __forceinline__ void normalise_row(const T* x, int cols, const NormTask<T>& norm, Moments* scratch,
                                              const Put& put) {
  constexpr float kEpsilon = 1e-5F;
  struct Eight {
    uint4 words[sizeof(T) / 2];
  };
  Eight eights[kTurns];
  const auto each_turn = [&](const auto& work) {
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      const int col = static_cast<int>(threadIdx.x) * 8 + i * kNormStride;
      if (i > 0 && i * kNormStride >= cols) break;
      if (col < cols) work(col, eights[i]);
    }
  };
  each_turn([&](int col, Eight& eight) { eight = *reinterpret_cast<const Eight*>(x + col); });
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int rest = cols % kNormStride - warp * 256;
  const auto columns = static_cast<float>(cols / kNormStride * 256 + min(max(rest, 0), 256));
  const float share = columns > 0 ? __fdividef(1.0F, columns) : 0.0F;
  const float whole_share = __fdividef(1.0F, static_cast<float>(cols));

  float v[8] = {}, sum = 0, squares = 0;
  each_turn([&](int, const Eight& eight) {
    load8(reinterpret_cast<const T*>(&eight), v);
    sum += sum_of(v);
  });
  const float own_mean = warp_sum(sum) * share;
  each_turn([&](int, const Eight& eight) {
    load8(reinterpret_cast<const T*>(&eight), v);
#pragma unroll
    for (float& value : v) value -= own_mean, value *= value;
    squares += sum_of(v);
  });
  squares = warp_sum(squares);
  if (threadIdx.x % 32 == 0) scratch[warp] = {own_mean, squares, columns};
  __syncthreads();
  float mean = 0;
#pragma unroll
  for (int w = 0; w < kNormWarps; ++w) mean = fmaf(scratch[w].mean, scratch[w].columns, mean);
  mean *= whole_share;
  squares = 0;
#pragma unroll
  for (int w = 0; w < kNormWarps; ++w) {
    const float apart = scratch[w].mean - mean;
    squares += fmaf(scratch[w].columns, apart * apart, scratch[w].squares);
  }
  const float scale = rsqrtf(fmaf(squares, whole_share, kEpsilon));
  each_turn([&](int col, const Eight& eight) {
    float parameters[8];
    load8(reinterpret_cast<const T*>(&eight), v);
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
  });
}

}  // namespace nibble
