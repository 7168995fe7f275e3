// Sums of the fused way on their way to y.
#pragma once

#include "kernels/cuda/fused_weights.cuh"
#include "kernels/cuda/linear.h"

namespace nibble {
namespace {

/// Sums of sixteen rows of w on their way to y, 32 rows of x at a time: finished but for the residual where wgmma left
/// them, and turned round in shared memory, where lanes leave neighbouring rows of x for lanes that have neighbouring
/// rows of w.
template <class T, class View, int kApart>
class FusedFinish {
 public:
  static constexpr int kRows = 32;  ///< of x
  /// What a lane's results are finished with, fetched ahead of their sums.
  struct Ahead {
    uint4 residuals[kRows / 16];

    /// Until they are there. A wait for some loads is one for all that are under way, so the next ones come behind it.
    __device__ __forceinline__ void wait() const {
#pragma unroll
      for (const uint4& r : residuals) asm volatile("" ::"r"(r.x), "r"(r.y), "r"(r.z), "r"(r.w));
    }
  };

  /// `scratch` has pieces of 128 bytes for four rows of x each, kApart from one to the next.
  __device__ __forceinline__ FusedFinish(const View& weight, const Finish<T>& finish, int tile, int rows,
                                         std::uint32_t scratch, int lane)
      : finish_(finish), n_(weight.n), row_(tile * kTileRows + lane % 2 * 8), rows_(rows), lane_(lane) {
    has_row_ = row_ < n_;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = tile * kTileRows + lane / 4 + 8 * i;
      bias_[i] = finish.fetch_bias(row, row < n_);
      if constexpr (!kHasScales<View>) scales_[i] = row < n_ ? weight.row_scale(row) : 0.0F;
    }
    const auto place_of = [&](int row_of_x, int eight) {
      return scratch +
             static_cast<std::uint32_t>(row_of_x / 4 * kApart + row_of_x % 4 * 32 + (eight ^ row_of_x / 4 % 2) * 16);
    };
    to_ = place_of(lane / 16 * 8 + lane % 8, lane / 8 % 2);
    from_ = place_of(lane / 2, lane % 2);
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
  /// Behind that, kRows / 4 words.
  __device__ __forceinline__ void store(const std::uint32_t* words, int first, int count, const Ahead& ahead) const {
    constexpr int kFurther = 4 * kApart;
#pragma unroll
    for (int i = 0; i < kRows / 16; ++i) {
      store_matrices_transposed(to_ + i * kFurther, words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]);
    }
    __syncwarp();
    uint4 results[kRows / 16];
#pragma unroll
    for (int i = 0; i < kRows / 16; ++i) results[i] = load_shared(from_ + i * kFurther);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kRows / 16; ++i) {
      if (is_there(first, count, i)) finish_.store(results[i], ahead.residuals[i], place_of(first, i));
    }
  }

 private:
  __device__ __forceinline__ int row_of(int i) const { return 16 * i + lane_ / 2; }
  __device__ __forceinline__ bool is_there(int first, int count, int i) const {
    return has_row_ && row_of(i) < count && first + row_of(i) < rows_;
  }
  __device__ __forceinline__ std::int64_t place_of(int first, int i) const {
    return static_cast<std::int64_t>(first + row_of(i)) * n_ + row_;
  }

  const Finish<T>& finish_;
  int n_, row_, rows_, lane_;
  bool has_row_;
  float bias_[2], scales_[2];
  std::uint32_t to_, from_;
};

}  // namespace
}  // namespace nibble
