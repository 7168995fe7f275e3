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

/// Of a block that does nothing else: rows of up to 12,288 columns, OPT-175B's.
inline constexpr int kNormTurns = 6, kMostNormColumns = kNormTurns * kNormStride;

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

/// Sends the parameters to two rows of shared memory, where what normalises finds them: a group of copies for each.
/// `cols` is a multiple of 8.
template <class T>
__device__ __forceinline__ void send_parameters(NormTask<T>& norm, int cols, const StagedRows& staged) {
  const auto send = [&](const T* parameters, int row) {
    if (parameters == nullptr) return parameters;
    constexpr int kValues = 16 / static_cast<int>(sizeof(T));
#pragma unroll 1
    for (int col = static_cast<int>(threadIdx.x) * kValues; col < cols; col += kNormThreads * kValues) {
      copy_async<16>(shared_address(staged.at<T>(row, col)), parameters + col);
    }
    commit_copies();
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

/// What is known of some columns of a row: their mean, and the squares of their distances from it.
struct Moments {
  float mean, squares;
};

__device__ __forceinline__ float sum_of(const float (&v)[8]) {
  return ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
}

/// The moments of all of a warp's columns, of which every lane has `count`, in every lane. Halves are brought together
/// as in Chan, Golub and LeVeque (1983).
__device__ __forceinline__ Moments of_warp(Moments m, float count) {
#pragma unroll
  for (int lanes = 1; lanes < 32; lanes *= 2, count *= 2) {
    const float mean = __shfl_xor_sync(0xffffffffU, m.mean, lanes);
    const float squares = __shfl_xor_sync(0xffffffffU, m.squares, lanes);
    const float apart = m.mean - mean;
    m.squares = fmaf(apart * apart, 0.5F * count, m.squares + squares);
    m.mean = 0.5F * (m.mean + mean);
  }
  return m;
}

/// Columns that all lanes of a warp have at once; a row is normalised here that has a multiple of them.
inline constexpr int kNormColumns = 256;

/// Normalises a row of x of up to kTurns * kNormStride columns and hands each eight columns to `put`, which is called
/// with a column and its values. `scratch` has room for kNormWarps. Epsilon and rounding as in torch.
template <int kTurns, class T, class Put>
__device__ __forceinline__ void normalise_row(const T* x, int cols, const NormTask<T>& norm, Moments* scratch,
                                              const Put& put) {
  constexpr float kEpsilon = 1e-5F;
  struct Eight {
    uint4 words[sizeof(T) / 2];
  };
  Eight eights[kTurns];
  const auto turns_of = [&](int warp) { return (cols / kNormColumns - warp + kNormWarps - 1) / kNormWarps; };
  const int turns = turns_of(static_cast<int>(threadIdx.x) / 32);
  const auto each_turn = [&](const auto& work) {
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      if (i < turns) work(i, static_cast<int>(threadIdx.x) * 8 + i * kNormStride);
    }
  };
  each_turn([&](int i, int col) { eights[i] = *reinterpret_cast<const Eight*>(x + col); });
  const auto values_of = [](const Eight& eight, float(&v)[8]) { load8(reinterpret_cast<const T*>(&eight), v); };
  const float whole_share = __fdividef(1.0F, static_cast<float>(cols));
  const float count = static_cast<float>(8 * turns);
  const float share = turns > 0 ? __fdividef(1.0F, count) : 0.0F;

  Moments moments{};
  float v[8];
  each_turn([&](int i, int) { values_of(eights[i], v), moments.mean += sum_of(v); });
  moments.mean *= share;
  each_turn([&](int i, int) {
    values_of(eights[i], v);
#pragma unroll
    for (float& value : v) value -= moments.mean, value *= value;
    moments.squares += sum_of(v);
  });
  moments = of_warp(moments, count);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = moments;
  __syncthreads();

  // All warps' together, by halves.
  const auto count_of = [&](int warp) { return static_cast<float>(turns_of(warp) * kNormColumns); };
  float parts[kNormWarps];
#pragma unroll
  for (int w = 0; w < kNormWarps; ++w) parts[w] = scratch[w].mean * count_of(w);
  const float mean = sum_of(parts) * whole_share;
#pragma unroll
  for (int w = 0; w < kNormWarps; ++w) {
    const float apart = scratch[w].mean - mean;
    parts[w] = fmaf(count_of(w), apart * apart, scratch[w].squares);
  }
  const float scale = rsqrtf(fmaf(sum_of(parts), whole_share, kEpsilon));
  each_turn([&](int i, int col) {
    float parameters[8];
    values_of(eights[i], v);
#pragma unroll
    for (float& value : v) value = (value - mean) * scale;
    if (norm.weight != nullptr) {
      load8(column_at(norm.weight, col, norm.gap), parameters);
#pragma unroll
      for (int j = 0; j < 8; ++j) v[j] *= parameters[j];
    }
    if (norm.bias != nullptr) {
      load8(column_at(norm.bias, col, norm.gap), parameters);
#pragma unroll
      for (int j = 0; j < 8; ++j) v[j] += parameters[j];
    }
    put(col, v);
  });
}

}  // namespace nibble
