// Weights of a step of the fused way, 64 columns, on their way to factors of T, scales multiplied in.
#pragma once

#include "kernels/cuda/weight_stream.cuh"

namespace nibble {
namespace {

template <class T>
__device__ __forceinline__ std::uint32_t multiply2(std::uint32_t a, std::uint32_t b);
template <>
__device__ __forceinline__ std::uint32_t multiply2<Half>(std::uint32_t a, std::uint32_t b) {
  const __half2 product = __hmul2(*reinterpret_cast<const __half2*>(&a), *reinterpret_cast<const __half2*>(&b));
  return *reinterpret_cast<const std::uint32_t*>(&product);
}
template <>
__device__ __forceinline__ std::uint32_t multiply2<BFloat16>(std::uint32_t a, std::uint32_t b) {
  const __nv_bfloat162 product =
      __hmul2(*reinterpret_cast<const __nv_bfloat162*>(&a), *reinterpret_cast<const __nv_bfloat162*>(&b));
  return *reinterpret_cast<const std::uint32_t*>(&product);
}

/// Whether blocks of columns have scales of their own, and not rows alone.
template <class View>
constexpr bool kHasScales = !std::is_same_v<View, TileView<Int8Row>>;

/// A lane's weights of a step, and their scales as factors of T.
template <class T, class View>
struct StepOfWeights {
  static constexpr int kTiles = 4 / View::kSteps;
  typename View::Read tiles[kTiles];
  std::uint32_t upper[kTiles], lower[kTiles];

  template <class Stream>
  __device__ __forceinline__ void read(const View& view, const Stream& stream, int first) {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      tiles[i] = stream.read(first + i);
      if constexpr (kHasScales<View>) {
        const float2 scale = view.scales(tiles[i]);
        upper[i] = pack2<T>(scale.x, scale.x), lower[i] = pack2<T>(scale.y, scale.y);
      }
    }
  }
  /// Sixteen columns.
  template <int kQuarter>
  __device__ __forceinline__ void decode(const View& view, std::uint32_t column, std::uint32_t (&a)[4]) const {
    constexpr int kTile = kQuarter / View::kSteps;
    view.template factors<T, kQuarter % View::kSteps>(tiles[kTile], column, a);
    if constexpr (kHasScales<View>) {
      a[0] = multiply2<T>(a[0], upper[kTile]), a[2] = multiply2<T>(a[2], upper[kTile]);
      a[1] = multiply2<T>(a[1], lower[kTile]), a[3] = multiply2<T>(a[3], lower[kTile]);
    }
  }
};

}  // namespace
}  // namespace nibble
