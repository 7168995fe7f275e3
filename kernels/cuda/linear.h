// A linear's work as the kernels are given it, and the paths it can take. Which one takes what is decided in linear.cu.
#pragma once

#include <span>

#include "kernels/backend.h"
#include "kernels/cuda/views.cuh"

namespace nibble {

/// The steps after the sum, each rounding to T.
template <class T>
struct Finish {
  const T* bias;  ///< [n], or null
  float scale;
  Activation activation;
  const T* residual;  ///< [rows, n], or null
  T* y;               ///< [rows, n]

  explicit Finish(const Projection& p, int first_row)
      : bias(p.linear.bias.size() == 0 ? nullptr : p.linear.bias.as<T>()),
        scale(p.epilogue.scale),
        activation(p.epilogue.activation),
        residual(p.epilogue.residual ? p.epilogue.residual->row<T>(first_row) : nullptr),
        y(p.y.row<T>(first_row)) {}
  Finish() = default;

  /// What a result will be finished with, fetched ahead of its sum, and as it is: a conversion would wait for it.
  /// `place` is the result's in y.
  struct Ahead {
    T bias, residual;
  };
  __device__ __forceinline__ Ahead fetch(int column, std::int64_t place) const {
    return {bias_of(column), residual_of(place)};
  }
  __device__ __forceinline__ T bias_of(int column) const { return bias == nullptr ? T{} : bias[column]; }
  __device__ __forceinline__ T residual_of(std::int64_t place) const {
    return residual == nullptr ? T{} : residual[place];
  }
  /// All steps but the residual, of sums with their bias.
  template <int kCount>
  __device__ __forceinline__ void steps(float (&v)[kCount]) const {
    const auto each = [&](const auto& step) {
#pragma unroll
      for (float& one : v) one = step(one);
    };
    each([](float one) { return rounded_f32<T>(one); });
    if (scale != 1.0F) each([&](float one) { return rounded_f32<T>(one * scale); });
    if (activation == Activation::kRelu) {
      each([](float one) { return activated(one, Activation::kRelu); });
    } else if (activation != Activation::kIdentity) {
      in_turn(v, [&](float one) { return rounded_f32<T>(activated(one, activation)); });
    }
  }
  __device__ __forceinline__ float value(float sum, float bias_of_it, float residual_of_it) const {
    float v[1] = {sum + bias_of_it};
    steps(v);
    return v[0] + residual_of_it;
  }
  __device__ __forceinline__ void operator()(float sum, const Ahead& ahead, std::int64_t place) const {
    y[place] = from_f32<T>(value(sum, to_f32(ahead.bias), to_f32(ahead.residual)));
  }

  // The same for two results side by side, of which the first one's column is even.
  using Two = std::conditional_t<sizeof(T) == 2, std::uint32_t, float2>;
  __device__ __forceinline__ Two two_biases_of(int column) const { return two_at(bias, column); }
  __device__ __forceinline__ Two two_residuals_of(std::int64_t place) const { return two_at(residual, place); }
  __device__ __forceinline__ void store_two(float2 v, const Two& residuals, std::int64_t place) const {
    const float2 more = values_of(residuals);
    v.x += more.x, v.y += more.y;
    if constexpr (sizeof(T) == 2) {
      *reinterpret_cast<Two*>(y + place) = pack2<T>(v.x, v.y);
    } else {
      *reinterpret_cast<Two*>(y + place) = v;
    }
  }
  __device__ __forceinline__ static float2 values_of(const Two& two) {
    if constexpr (sizeof(T) == 2) {
      return unpack2<T>(two);
    } else {
      return two;
    }
  }

  // The same for many results at once, two to a word.
  __device__ __forceinline__ float fetch_bias(int column, bool valid) const {
    return bias == nullptr || !valid ? 0.0F : to_f32(bias[column]);
  }
  /// All steps but the residual, of sums with their bias.
  template <int kWords>
  __device__ __forceinline__ void steps(std::uint32_t (&words)[kWords]) const {
    const auto each = [&](const auto& step) {
#pragma unroll
      for (std::uint32_t& word : words) word = step(word);
    };
    if (scale != 1.0F) {
      each([&](std::uint32_t word) {
        const float2 v = unpack2<T>(word);
        return pack2<T>(v.x * scale, v.y * scale);
      });
    }
    if (activation == Activation::kRelu) {
      each([](std::uint32_t word) { return larger2<T>(word, 0); });
    } else if (activation != Activation::kIdentity) {
      in_turn(words, [&](std::uint32_t word) {
        const float2 v = unpack2<T>(word);
        return pack2<T>(activated(v.x, activation), activated(v.y, activation));
      });
    }
  }
  /// Eight results side by side, 16-byte aligned.
  __device__ __forceinline__ uint4 fetch_residual(std::int64_t place, bool valid) const {
    return residual == nullptr || !valid ? uint4{} : *reinterpret_cast<const uint4*>(residual + place);
  }
  __device__ __forceinline__ void store(uint4 words, const uint4& residuals, std::int64_t place) const {
    if (residual != nullptr) {
      float v[8], others[8];
      load8(reinterpret_cast<const T*>(&words), v);
      load8(reinterpret_cast<const T*>(&residuals), others);
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] += others[i];
      store8(reinterpret_cast<T*>(&words), v);
    }
    *reinterpret_cast<uint4*>(y + place) = words;
  }

 private:
  __device__ __forceinline__ static Two two_at(const T* values, std::int64_t place) {
    return values == nullptr ? Two{} : *reinterpret_cast<const Two*>(values + place);
  }
  /// Through the first place, so that there is one copy of the function.
  template <int kCount, class V, class Step>
  __device__ __forceinline__ static void in_turn(V (&values)[kCount], const Step& step) {
#pragma unroll 1
    for (int turn = 0; turn < kCount; ++turn) {
      const V first = values[0];
#pragma unroll
      for (int i = 0; i + 1 < kCount; ++i) values[i] = values[i + 1];
      values[kCount - 1] = step(first);
    }
  }
};

/// LayerNorm of x, on the way into a linear or by itself.
template <class T>
struct NormView {
  const T* weight;  ///< [cols], or null
  const T* bias;    ///< [cols], or null
  T* y;             ///< [rows, cols]: the result is written here as well

  NormView(const LayerNorm& norm, Tensor normed)
      : weight(norm.weight.size() == 0 ? nullptr : norm.weight.as<T>()),
        bias(norm.bias.size() == 0 ? nullptr : norm.bias.as<T>()),
        y(normed.row<T>(0)) {}
};

/// Rows of x that one launch of the decode path takes.
inline constexpr int kDecodeRows = 16;
/// Linears that one launch of it or of the fused way takes.
inline constexpr int kMostProjections = 3;

/// Where a launch goes, and on what.
struct Launch {
  cudaStream_t stream;
  int processors;
  bool is_hopper;  ///< compute capability 9.0, whose instructions no other has
};

/// A row of x times up to kMostProjections weights of one layout, all in tiles. `norm` may be null. Returns false,
/// having done nothing, where x has no room in shared memory.
template <class T, class Layout>
bool linear_decode(const Launch& launch, const NormView<T>* norm, Tensor x, int row,
                   std::span<const Projection> projections);

/// The same for up to kDecodeRows rows of x, with the same bits. Without `norm` they may have any width.
template <class T, class Layout>
bool linear_few(const Launch& launch, const NormView<T>* norm, Tensor x, int first_row, int rows,
                std::span<const Projection> projections);

}  // namespace nibble
