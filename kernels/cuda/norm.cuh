// LayerNorm of a row by one block, and how rows come to shared memory.
#pragma once

#include <type_traits>

#include "kernels/cuda/ptx.cuh"

namespace nibble {

/// Sixteen or thirty-two bytes.
template <class T>
struct Eight {
  uint4 words[sizeof(T) / 2];

  __device__ __forceinline__ void get(float (&v)[8]) const { load8(reinterpret_cast<const T*>(words), v); }
  /// As they are, which takes fewer registers than what was got.
  __device__ __forceinline__ void keep() {
#pragma unroll
    for (uint4& word : words) word = {kept(word.x), kept(word.y), kept(word.z), kept(word.w)};
  }
};

/// What eight columns are multiplied with, and what is added.
template <class T>
struct NormEight {
  Eight<T> weights, biases;
};

template <class T>
struct NormTask {
  const T* weight;  ///< [cols], or null for ones
  const T* bias;    ///< [cols], or null for zeros
  T* y;             ///< [rows, cols]

  /// Of the eight columns from `col` on.
  __device__ __forceinline__ NormEight<T> at(int, int col) const {
    return {eight_of(weight, col, 1.0F), eight_of(bias, col, 0.0F)};
  }

 private:
  __device__ __forceinline__ static Eight<T> eight_of(const T* parameters, int col, float otherwise) {
    if (parameters != nullptr) return *reinterpret_cast<const Eight<T>*>(parameters + col);
    const float v[8] = {otherwise, otherwise, otherwise, otherwise, otherwise, otherwise, otherwise, otherwise};
    Eight<T> eight;
    store8(reinterpret_cast<T*>(eight.words), v);
    return eight;
  }
};

/// Threads of every block that normalises, so that sums have the same order in all kernels.
inline constexpr int kNormThreads = 256;
inline constexpr int kNormWarps = kNormThreads / 32;

/// How far apart a thread's columns of a row are, by eights.
inline constexpr int kNormStride = kNormThreads * 8;

/// Of a block that does nothing else: rows of up to 12,288 columns, OPT-175B's.
inline constexpr int kNormTurns = 6, kMostNormColumns = kNormTurns * kNormStride;

/// Calls f with kNormTurns or fewer that rows of so many columns need: the more, the more registers a kernel takes.
template <class F>
void with_norm_turns(int cols, F&& f) {
  if (cols <= kNormStride) {
    f(std::integral_constant<int, 1>{});
  } else if (cols <= 2 * kNormStride) {
    f(std::integral_constant<int, 2>{});
  } else {
    f(std::integral_constant<int, kNormTurns>{});
  }
}

/// Brings a row to shared memory, 16 bytes to place(column), in the time of one trip to memory, without waiting for
/// copies that are under way. `meanwhile` is called whenever some are on their way.
template <class T, class Place, class Meanwhile>
__device__ __forceinline__ void stage_row(const T* x, int cols, const Place& place, const Meanwhile& meanwhile) {
  constexpr int kValues = 16 / static_cast<int>(sizeof(T)), kAtOnce = 4, kStride = kNormThreads * kValues;
  int begin = static_cast<int>(threadIdx.x) * kValues;
#pragma unroll 1
  do {
    uint4 values[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (begin + i * kStride < cols) values[i] = *reinterpret_cast<const uint4*>(x + begin + i * kStride);
    }
    meanwhile();
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int col = begin + i * kStride;
      if (col < cols) *reinterpret_cast<uint4*>(place(col)) = values[i];
    }
    begin += kAtOnce * kStride;
  } while (begin < cols);
}

/// What is known of some columns of a row: their mean, and the squares of their distances from it.
struct Moments {
  float mean, squares;
};

__device__ __forceinline__ float sum_of(const float (&v)[8]) {
  return ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
}
__device__ __forceinline__ Moments moments_of(const float (&v)[8]) {
  const float mean = sum_of(v) * 0.125F;
  float squares[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float apart = v[i] - mean;
    squares[i] = i < 4 ? apart * apart : fmaf(apart, apart, squares[i - 4]);
  }
  return {mean, (squares[4] + squares[5]) + (squares[6] + squares[7])};
}
/// The moments of two halves together, `count` columns each (Chan, Golub and LeVeque 1983).
__device__ __forceinline__ Moments together(Moments a, Moments b, int count) {
  const float apart = a.mean - b.mean;
  return {0.5F * (a.mean + b.mean), fmaf(apart * apart, 0.5F * static_cast<float>(count), a.squares + b.squares)};
}
/// The moments of all columns of 2 * kLanes lanes, of which every lane has `count`, in every lane.
template <int kLanes>
__device__ __forceinline__ Moments of_lanes(Moments m, int count) {
#pragma unroll
  for (int lanes = kLanes; lanes > 0; lanes /= 2, count *= 2) {
    const Moments other{__shfl_xor_sync(0xffffffffU, m.mean, lanes), __shfl_xor_sync(0xffffffffU, m.squares, lanes)};
    m = together(m, other, count);
  }
  return m;
}

/// Columns that all lanes of a warp have at once, eight each; a row is normalised here that has a multiple of them. Of
/// their moments, those of eight columns and of the eight half of them further come together first, then a quarter.
inline constexpr int kNormColumns = 256;

/// How many times kNormColumns columns of a row a warp has: those from its number on, kNormWarps apart.
__device__ __forceinline__ int norm_turns_of(int cols, int warp) {
  const int all = cols / kNormColumns;
  return all / kNormWarps + (warp < all % kNormWarps ? 1 : 0);
}

/// The moments of all that a warp has, from those of its up to kTurns turns.
template <int kTurns, class Of>
__device__ __forceinline__ Moments of_warp(int turns, const Of& of) {
  if constexpr (kTurns == 1) return turns > 0 ? of(0) : Moments{};
  const auto each_turn = [&](const auto& work) {
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      if (i < turns) work(of(i));
    }
  };
  Moments all{};
  each_turn([&](Moments m) { all.mean += m.mean; });
  all.mean *= turns > 0 ? __fdividef(1.0F, static_cast<float>(turns)) : 0.0F;
  each_turn([&](Moments m) {
    const float apart = m.mean - all.mean;
    all.squares += fmaf(apart * apart, static_cast<float>(kNormColumns), m.squares);
  });
  return all;
}

/// What the values of a row are normalised with: they are multiplied, then a shift is added.
struct Scaling {
  float scale, shift;
};

/// Of what a row's warps have, of which lane i knows that of warp i modulo kNormWarps. Epsilon as in torch.
__device__ __forceinline__ Scaling scaling_of(int cols, Moments part) {
  constexpr float kEpsilon = 1e-5F;
  const int warp = static_cast<int>(threadIdx.x) % kNormWarps;
  const auto count = static_cast<float>(norm_turns_of(cols, warp) * kNormColumns);
  const auto sum = [](float v) {
#pragma unroll
    for (int lanes = 1; lanes < kNormWarps; lanes *= 2) v += __shfl_xor_sync(0xffffffffU, v, lanes);
    return v;
  };
  const float share = __fdividef(1.0F, static_cast<float>(cols));
  const float mean = sum(part.mean * count) * share, apart = part.mean - mean;
  const float scale = rsqrtf(fmaf(sum(fmaf(count, apart * apart, part.squares)), share, kEpsilon));
  return {scale, -mean * scale};
}

/// Normalises eight values.
template <class T>
__device__ __forceinline__ void normalise(float (&v)[8], const Scaling& scaling, const NormEight<T>& parameters) {
  float weights[8], biases[8];
  parameters.weights.get(weights), parameters.biases.get(biases);
#pragma unroll
  for (int i = 0; i < 8; ++i) v[i] = fmaf(fmaf(v[i], scaling.scale, scaling.shift), weights[i], biases[i]);
}

/// The parameters of a thread's columns, eight of every kNormStride, fetched ahead of x.
template <int kTurns, class T>
class NormParameters {
 public:
  __device__ __forceinline__ void fetch(const NormTask<T>& norm, int cols) {
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      const int col = static_cast<int>(threadIdx.x) * 8 + i * kNormStride;
      if (col < cols) eights_[i] = norm.at(i, col);
    }
  }
  __device__ __forceinline__ const NormEight<T>& at(int turn, int) const { return eights_[turn]; }

 private:
  NormEight<T> eights_[kTurns];
};

/// Normalises a row of x of up to kTurns * kNormStride columns and hands each eight columns to `put`, which is called
/// with a column and its values. `meanwhile` is called when x is on its way. `parameters`: NormParameters, or the task,
/// which fetches them when they are needed. `scratch` has room for kNormWarps. fp32, rounded to T at the end, as in
/// torch.
template <int kTurns, class T, class Parameters, class Meanwhile, class Put>
__device__ __forceinline__ void normalise_row(const T* x, int cols, const Parameters& parameters, Moments* scratch,
                                              const Meanwhile& meanwhile, const Put& put) {
  Eight<T> eights[kTurns] = {};
  const auto each_turn = [&](const auto& work) {
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      const int col = static_cast<int>(threadIdx.x) * 8 + i * kNormStride;
      if (col < cols) work(i, col);
    }
  };
  each_turn([&](int i, int col) { eights[i] = *reinterpret_cast<const Eight<T>*>(x + col); });
  meanwhile();

  Moments moments[kTurns];
#pragma unroll
  for (int i = 0; i < kTurns; ++i) {
    float v[8];
    eights[i].get(v);
    moments[i] = of_lanes<16>(moments_of(v), 8);
    eights[i].keep();
  }
  const int turns = norm_turns_of(cols, static_cast<int>(threadIdx.x) / 32);
  const Moments own = of_warp<kTurns>(turns, [&](int i) { return moments[i]; });
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = own;
  __syncthreads();

  const Scaling scaling = scaling_of(cols, scratch[threadIdx.x % kNormWarps]);
  each_turn([&](int i, int col) {
    float v[8];
    eights[i].get(v);
    normalise(v, scaling, parameters.at(i, col));
    put(col, v);
  });
}

}  // namespace nibble
