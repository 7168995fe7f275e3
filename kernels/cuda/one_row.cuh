// One row of x and its sums with 16 rows of weights, a warp's share.
#pragma once

#include "kernels/cuda/sums.cuh"

namespace nibble {
namespace {

/// On the tensor cores. Of the eight columns of the second factor, number g has x of tile g % 4 of a batch; of the
/// products, lane 4 g + t keeps columns 2t and 2t + 1, which are those of tiles 2 (t % 2) and the next one. So x is
/// read from shared memory once for four tiles, and a lane has one of the two sums that Sums has of each result.
template <class T, class View>
class OneRow {
 public:
  static constexpr int kSteps = View::kSteps;
  /// Batches that there are registers for in factors.
  static constexpr int kBatchesAhead = 4 / kSteps;
  using Batch = typename View::Read[kBatch];

  /// Where column `col` of x stands: pieces of 16 bytes change places in every other tile where lanes have two, so that
  /// those of neighbouring tiles are in different banks.
  __device__ __forceinline__ static int place_of(int col) { return kSteps == 4 ? col ^ (col / 64 % 2 * 8) : col; }

  /// `x`: the warp's first tile; tiles are `step` bytes apart.
  __device__ __forceinline__ OneRow(const char* x, int first_tile, int step, int lane)
      : tile_(lane / 4 % kBatch), step_(step), has_second_half_(lane % 2 != 0) {
    const int piece = kSteps == 4 ? lane % 4 * 2 + (first_tile + tile_) % 2 : lane % 4;
    place_ = static_cast<std::uint32_t>(
        pinned(static_cast<int>(shared_address(x)) + (first_tile + tile_) * step + piece * 16));
  }

  /// Factors of a batch, and the scales of the lane's two tiles, before x is there.
  struct Ahead {
    StepFactors<T> factors[kBatch][kSteps];
    float2 scales[2];
  };
  __device__ __forceinline__ void decode_ahead(const View& view, const Batch& batch, std::uint32_t column,
                                               Ahead& ahead) const {
#pragma unroll
    for (int i = 0; i < kBatch; ++i) decode<T>(view, batch[i], column, ahead.factors[i]);
#pragma unroll
    for (int i = 0; i < 2; ++i) ahead.scales[i] = scales_of(view, batch, i);
  }

  /// Adds the products of such a batch, which begins with tile `col`.
  __device__ __forceinline__ void add(const Ahead& ahead, int col) {
    Products products;
    load(products.x, col);
#pragma unroll
    for (int i = 0; i < kBatch; ++i) products.multiply(i, ahead.factors[i]);
#pragma unroll
    for (int i = 0; i < 2; ++i) keep(products, i, ahead.scales[i]);
  }

  /// Adds the products of all batches of a row of tiles, `count` tiles, from tile `col` on.
  template <int kStages>
  __device__ __forceinline__ void add(const View& view, WeightStream<View, kStages>& stream, int col, int count,
                                      std::uint32_t column) {
    for (; col < count; col += kBatch) {
      Products products;
      // Which would wait for what is asked for, if that came first. Lanes whose tile is not there read the last one.
      load(products.x, min(count - 1 - tile_, col));
      Batch batch;
      stream.take(batch);
      stream.ask();
      const auto multiply = [&](int i) {
        StepFactors<T> factors[kSteps];
        decode<T>(view, batch[i], column, factors);
        products.multiply(i, factors);
      };
      if (col + kBatch <= count) {
#pragma unroll
        for (int i = 0; i < kBatch; ++i) multiply(i);
#pragma unroll
        for (int i = 0; i < 2; ++i) keep(products, i, scales_of(view, batch, i));
        continue;
      }
#pragma unroll
      for (int i = 0; i < kBatch - 1; ++i) {
        if (col + i < count) multiply(i);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (col + i + (has_second_half_ ? 2 : 0) < count) keep(products, i, scales_of(view, batch, i));
      }
    }
  }

  /// What is added next is of the other of two rows of tiles.
  __device__ __forceinline__ void change_rows() {
    const float2 others = others_;
    others_ = sums_, sums_ = others;
  }

  /// The sums of rows g and g + 8, in all of their lanes; the next are of the other row of tiles.
  __device__ __forceinline__ float2 take() {
    const float2 whole{sums_.x + __shfl_xor_sync(0xffffffffU, sums_.x, 1),
                       sums_.y + __shfl_xor_sync(0xffffffffU, sums_.y, 1)};
    sums_ = others_, others_ = {};
    return whole;
  }

 private:
  struct Products {
    float d[kBatch][4] = {};
    uint4 x[kSteps / 2];

    __device__ __forceinline__ void multiply(int i, const StepFactors<T> (&factors)[kSteps]) {
#pragma unroll
      for (int s = 0; s < kSteps / 2; ++s) {
        mma<T>(d[i], factors[2 * s], x[s].x, x[s].y);
        mma<T>(d[i], factors[2 * s + 1], x[s].z, x[s].w);
      }
    }
  };

  /// x of the lane's tile of the batch that begins with tile `col`.
  __device__ __forceinline__ void load(uint4 (&x)[kSteps / 2], int col) const {
    const std::uint32_t place = place_ + static_cast<std::uint32_t>(col * step_);
#pragma unroll
    for (int i = 0; i < kSteps / 2; ++i) x[i] = load_shared(place ^ static_cast<std::uint32_t>(16 * i));
  }
  __device__ __forceinline__ float2 scales_of(const View& view, const Batch& batch, int i) const {
    const typename View::Read own = has_second_half_ ? batch[2 + i] : batch[i];
    return view.scales(own);
  }
  /// Number i of the lane's two tiles.
  __device__ __forceinline__ void keep(const Products& products, int i, float2 scale) {
    sums_.x = fmaf(has_second_half_ ? products.d[2 + i][i] : products.d[i][i], scale.x, sums_.x);
    sums_.y = fmaf(has_second_half_ ? products.d[2 + i][2 + i] : products.d[i][2 + i], scale.y, sums_.y);
  }

  std::uint32_t place_;  ///< of x of the lane's tile of the first batch
  int tile_, step_;
  bool has_second_half_;
  float2 sums_ = {}, others_ = {};
};

/// The same in fp32.
template <class View>
class OneRow<float, View> {
 public:
  static constexpr int kBatchesAhead = 0;
  struct Ahead {};

  __device__ __forceinline__ static int place_of(int col) { return col; }

  __device__ __forceinline__ OneRow(const char* x, int first_tile, int step, int lane)
      : x_(x, first_tile * step + lane % 4 * 16 * View::kSteps, lane, 1, 0), step_(step), lane_(lane) {}

  template <int kStages>
  __device__ __forceinline__ void add(const View& view, WeightStream<View, kStages>& stream, int col, int count,
                                      std::uint32_t column) {
    add_products<float>(sums_, view, stream, x_, col, count, step_, column, [](int) {});
  }
  __device__ __forceinline__ float2 take() {
    const auto spread = sums_[0].spread(lane_);
    sums_[0].clear();
    return {spread.d[0][0], spread.d[0][2]};
  }

 private:
  RowsOfX<float, 1, true> x_;
  Sums<float, 1, View::kSteps> sums_[1];
  int step_, lane_;
};

}  // namespace
}  // namespace nibble
