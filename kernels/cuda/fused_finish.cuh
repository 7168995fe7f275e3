// Sums of the fused way on their way to y.
#pragma once

#include "kernels/cuda/fused_weights.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/linear.h"

namespace nibble {
namespace {

/// Sums of a warpgroup's 64 rows of w on their way to y, 32 rows of x a turn: finished but for the residual where wgmma
/// left them, and turned round in shared memory, where warps leave neighbouring rows of x for lanes that have
/// neighbouring rows of w. So y is written in runs of 128 bytes, and the residual read.
template <class T, class View, int kApart>
class FusedFinish {
 public:
  static constexpr int kRows = 32;  ///< of x, a turn
  /// Two turns' results, so that warps meet once a turn.
  static constexpr int kScratchPieces = 2 * kRows;
  /// What a lane's results are finished with, fetched ahead of their sums.
  struct Ahead {
    uint4 residuals[kRows / 16];

    /// Until they are there. A wait for some loads is one for all that are under way, so the next ones come behind it.
    __device__ __forceinline__ void wait() const {
#pragma unroll
      for (const uint4& r : residuals) asm volatile("" ::"r"(r.x), "r"(r.y), "r"(r.z), "r"(r.w));
    }
  };

  /// `tile` is the warp's. `scratch` is the warpgroup's, pieces of 128 bytes, kApart from one to the next.
  __device__ __forceinline__ FusedFinish(const View& weight, const Finish<T>& finish, int tile, int rows,
                                         std::uint32_t scratch, int warp, int lane)
      : finish_(finish),
        n_(weight.n),
        row_((tile - warp % 4) * kTileRows + lane % 8 * 8),
        rows_(rows),
        row_of_x_(warp % 4 * 4 + lane / 8),
        group_(warp / 4) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = tile * kTileRows + lane / 4 + 8 * i;
      bias_[i] = finish.fetch_bias(row, row < n_);
      if constexpr (!kHasScales<View>) scales_[i] = row < n_ ? weight.row_scale(row) : 0.0F;
    }
    // A piece has a row of x, whose eights of rows of w change places by its number.
    const auto place_of = [&](int row_of_x, int eight) {
      return scratch + static_cast<std::uint32_t>(row_of_x * kApart + (eight ^ row_of_x % 8) * 16);
    };
    to_ = place_of(lane / 16 * 8 + lane % 8, warp % 4 * 2 + lane / 8 % 2);
    from_ = place_of(row_of_x_, lane % 8);
  }

  /// For `count` rows of x from `first` on.
  __device__ __forceinline__ Ahead fetch(int first, int count) const {
    Ahead ahead;
#pragma unroll
    for (int i = 0; i < kRows / 16; ++i) {
      ahead.residuals[i] = finish_.fetch_residual(place_of(first, i), is_there(first, count, i));
    }
    return ahead;
  }
  /// Lane 4 g + t has of each eight rows of x the sums of 2t and 2t + 1, for rows g and g + 8 of w. All steps but the
  /// residual.
  template <int kWords>
  __device__ __forceinline__ void finish(const float (&sums)[2 * kWords], std::uint32_t (&words)[kWords]) const {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      const float scale = kHasScales<View> ? 1.0F : scales_[i % 2];
      words[i] = pack2<T>(sums[2 * i] * scale + bias_[i % 2], sums[2 * i + 1] * scale + bias_[i % 2]);
    }
    finish_.steps(words);
  }
  /// Behind that, kRows / 4 words. By all warps of the group; turns are numbered over all tiles.
  __device__ __forceinline__ void store(unsigned turn, const std::uint32_t* words, int first, int count,
                                        const Ahead& ahead) const {
    constexpr int kFurther = 16 * kApart;
    const std::uint32_t half = turn % 2 * (kRows * kApart);
#pragma unroll
    for (int i = 0; i < kRows / 16; ++i) {
      store_matrices_transposed(to_ + half + i * kFurther, words[4 * i], words[4 * i + 1], words[4 * i + 2],
                                words[4 * i + 3]);
    }
    meet_group(group_);
    uint4 results[kRows / 16];
#pragma unroll
    for (int i = 0; i < kRows / 16; ++i) results[i] = load_shared(from_ + half + i * kFurther);
#pragma unroll
    for (int i = 0; i < kRows / 16; ++i) {
      if (is_there(first, count, i)) finish_.store(results[i], ahead.residuals[i], place_of(first, i));
    }
  }

 private:
  __device__ __forceinline__ int row_of(int i) const { return 16 * i + row_of_x_; }
  __device__ __forceinline__ bool is_there(int first, int count, int i) const {
    return row_ < n_ && row_of(i) < count && first + row_of(i) < rows_;
  }
  __device__ __forceinline__ std::int64_t place_of(int first, int i) const {
    return static_cast<std::int64_t>(first + row_of(i)) * n_ + row_;
  }

  const Finish<T>& finish_;
  int n_, row_, rows_, row_of_x_, group_;
  float bias_[2], scales_[2];
  std::uint32_t to_, from_;
};

}  // namespace
}  // namespace nibble
