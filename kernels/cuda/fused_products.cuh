// How the fused way multiplies a step, 64 columns of w and of rows of x, and what a thread's sums are meanwhile. All
// have:
//
//   Products(sum, int)  where a thread's sums are at the end, 0 before, and what a launch tells them
//   take_step           multiplies step kStep of the batch of weights that `stream` has by the lines of x that `lines`
//                       describes, which are there when `wait` has come back; calls `release` when the products of the
//                       step before are done
//   batches             how many batches, of those that a block has, go together; `gather` comes behind them
//   end                 brings sums to where they are told: lane 4 g + t has rows g and g + 8 of w, 2t and 2t + 1 of
//                       each eight of x
#pragma once

#include "kernels/cuda/fused_weights.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/sums.cuh"
#include "kernels/cuda/ways.h"

namespace nibble {
namespace {

/// Scales are multiplied into factors, and the tensor cores keep the sums.
template <class T, class View, int kColumns>
class ScaledProducts {
 public:
  __device__ __forceinline__ ScaledProducts(float (&sum)[kColumns / 2], int) : sum_(sum) {}

  /// Half a step's products are under way while the other half's factors are made.
  template <int kStep, class Stream, class Wait, class Release>
  __device__ __forceinline__ void take_step(const View& view, const Stream& stream, std::uint32_t column,
                                            std::uint64_t lines, Wait&& wait, Release&& release) {
    StepOfWeights<T, View> weights;
    weights.read(view, stream, kStep * StepOfWeights<T, View>::kTiles);
    const auto take_half = [&]<int kHalf>(std::integral_constant<int, kHalf>) {
      weights.template decode<2 * kHalf>(view, column, factors_[2 * kHalf]);
      weights.template decode<2 * kHalf + 1>(view, column, factors_[2 * kHalf + 1]);
      if (kHalf == 0) wait();
      begin_products();
      multiply<T, kColumns>(sum_, factors_[2 * kHalf], lines + 4 * kHalf, true);
      multiply<T, kColumns>(sum_, factors_[2 * kHalf + 1], lines + 4 * kHalf + 2, true);
      commit_products();
      wait_for_products<1>();
    };
    take_half(std::integral_constant<int, 0>{});
    release();
    take_half(std::integral_constant<int, 1>{});
  }
  __device__ __forceinline__ int batches(int all) const { return all; }
  __device__ __forceinline__ void gather() {}
  __device__ __forceinline__ void end() {
    wait_for_products<0>();
#pragma unroll
    for (float& s : sum_) asm volatile("" : "+f"(s));  // not before they are there
  }

 private:
  float (&sum_)[kColumns / 2];
  std::uint32_t factors_[4][4];  // of a step
};

/// What linear_few.cuh does, to the bit: a tile's products are scaled as they are, in fp32, and the sums of sharers,
/// which it is told how many batches have, come together in their order. The products of wgmma have the bits of
/// mma.sync (NOTES.md).
template <class T, class View, int kColumns>
class SharedProducts {
 public:
  __device__ __forceinline__ SharedProducts(float (&sum)[kColumns / 2], int batches) : sum_(sum), batches_(batches) {}

  /// Nothing is under way while factors are made: registers for the next ones would cost more than the wait, in which
  /// other warps decode.
  template <int kStep, class Stream, class Wait, class Release>
  __device__ __forceinline__ void take_step(const View& view, const Stream& stream, std::uint32_t column,
                                            std::uint64_t lines, Wait&& wait, Release&& release) {
    constexpr int kTiles = 4 / View::kSteps;
    release();
    const auto take_tile = [&]<int kOfStep>(std::integral_constant<int, kOfStep>) {
      constexpr int kTile = kStep * kTiles + kOfStep;
      const typename View::Read tile = stream.read(kTile);
      StepFactors<T> factors[View::kSteps];
      decode<T>(view, tile, column, factors);
      if (kOfStep == 0) wait();
      begin_products();
#pragma unroll
      for (int i = 0; i < View::kSteps; ++i) {
        multiply<T, kColumns>(sum_, factors[i], lines + 2 * (kOfStep * View::kSteps + i), i > 0);
      }
      commit_products();
      wait_for_products<0>();
      typename TileSums::Products products;
#pragma unroll
      for (int i = 0; i < kColumns / 2; ++i) {
        asm volatile("" : "+f"(sum_[i]));  // not before they are there
        products.d[i / 4][i % 4] = sum_[i];
      }
      sums_.add(kTile, products, view.scales(tile));
    };
    take_tile(std::integral_constant<int, 0>{});
    if constexpr (kTiles > 1) take_tile(std::integral_constant<int, 1>{});
  }
  __device__ __forceinline__ int batches(int) const { return batches_; }
  __device__ __forceinline__ void gather() {
    sharer_[0] = sums_.spread(0);
    gathered_.add(sharers_++, sharer_);
    sums_.clear();
  }
  __device__ __forceinline__ void end() {
#pragma unroll
    for (int i = 0; i < kColumns / 2; ++i) sum_[i] = sharer_[0].d[i / 4][i % 4];
  }

 private:
  using TileSums = Sums<T, kColumns, View::kSteps>;

  TileSums sums_;
  float (&sum_)[kColumns / 2];           ///< of a tile, and at the end of all
  typename TileSums::Spread sharer_[1];  ///< of the last sharer, with those that came together with it
  Gathered<typename TileSums::Spread, 1, kMostSharersShift> gathered_;
  int batches_, sharers_ = 0;
};

}  // namespace
}  // namespace nibble
