// Many rows of x: weights are turned into plain 16 or 32-bit ones, some megabytes at a time, and cuBLASLt multiplies
// them. A weight is rounded to the compute dtype once.
#pragma once

#include "kernels/cuda/linear_plain.cuh"
#include "kernels/cuda/matmul.h"

namespace nibble {

namespace {

/// The runs of as many neighbouring lanes as a run has pieces of 16 bytes, one behind the other; `p` is the lane's
/// piece of the first of them. Lanes change pieces first, so that each store writes whole sectors.
template <class T, int kRun>
__device__ __forceinline__ void store_runs(const float (&run)[kRun], int lane, T* p) {
  constexpr int kPieces = kRun * static_cast<int>(sizeof(T)) / 16;
  uint4 pieces[kPieces];
#pragma unroll
  for (int i = 0; i < kPieces; ++i) pieces[i] = pack16<T>(run + i * kRun / kPieces);
#pragma unroll
  for (int bit = 1; bit < kPieces; bit *= 2) {
    const bool odd = (lane & bit) != 0;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      if ((i & bit) != 0) continue;
      uint4 &here = pieces[i], &there = pieces[i | bit];
      const uint4 mine = odd ? here : there;
      const uint4 its = {__shfl_xor_sync(0xffffffffU, mine.x, bit), __shfl_xor_sync(0xffffffffU, mine.y, bit),
                         __shfl_xor_sync(0xffffffffU, mine.z, bit), __shfl_xor_sync(0xffffffffU, mine.w, bit)};
      (odd ? here : there) = its;
    }
  }
#pragma unroll
  for (int i = 0; i < kPieces; ++i) *reinterpret_cast<uint4*>(p + i * kRun) = pieces[i];
}

inline constexpr int kExpandThreads = 512;

/// One warp for each tile.
template <class Layout, class T>
__global__ void __launch_bounds__(kExpandThreads)
    expand_tiles_kernel(TileView<Layout> weight, int first_tile, int tiles, T* out) {
  using View = TileView<Layout>;
  constexpr int kRun = 4 * View::kSteps, kPieces = kRun * static_cast<int>(sizeof(T)) / 16;
  let_next_kernel_start();
  extern __shared__ __align__(256) char table[];
  if constexpr (View::kHasTable) {
    fill_pair_table<float, kExpandThreads>(weight.levels, table);
    __syncthreads();
  }
  const int lane = threadIdx.x % 32;
  const std::uint32_t column = column_of<float>(lane);
  const auto col_tiles = static_cast<unsigned>(weight.k / (16 * View::kSteps));
  const unsigned count = static_cast<unsigned>(tiles) * col_tiles;
  const unsigned warps = gridDim.x * (blockDim.x / 32);
  const auto load = [&](unsigned i) {
    return weight.load(weight.place(first_tile + static_cast<int>(i / col_tiles), lane), 0,
                       static_cast<int>(i % col_tiles));
  };
  unsigned i = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  typename View::Loaded next;
  if (i < count) next = load(i);
  wait_for_previous_kernel();
  for (; i < count; i += warps) {
    const auto loaded = next;
    if (i + warps < count) next = load(i + warps);
    const int row_tile = static_cast<int>(i / col_tiles), col_tile = static_cast<int>(i % col_tiles);
    const int row = (first_tile + row_tile) * kTileRows + lane / 4;
    float2 scale = weight.scales(loaded);
    scale.x *= weight.row_scale(row), scale.y *= weight.row_scale(row + 8);
    float upper[kRun], lower[kRun];
    const auto keep = [&](int step, const Factors32& f) {
      upper[4 * step] = f.v[0].x * scale.x, upper[4 * step + 1] = f.v[0].y * scale.x;
      upper[4 * step + 2] = f.v[2].x * scale.x, upper[4 * step + 3] = f.v[2].y * scale.x;
      lower[4 * step] = f.v[1].x * scale.y, lower[4 * step + 1] = f.v[1].y * scale.y;
      lower[4 * step + 2] = f.v[3].x * scale.y, lower[4 * step + 3] = f.v[3].y * scale.y;
    };
    Factors32 f;
    weight.template factors<float, 0>(loaded, column, f), keep(0, f);
    weight.template factors<float, 1>(loaded, column, f), keep(1, f);
    if constexpr (View::kSteps == 4) {
      weight.template factors<float, 2>(loaded, column, f), keep(2, f);
      weight.template factors<float, 3>(loaded, column, f), keep(3, f);
    }
    T* p = out + (static_cast<std::int64_t>(row_tile) * kTileRows + lane / 4) * weight.k +
           col_tile * 16 * View::kSteps + lane % 4 / kPieces * kPieces * kRun + lane % kPieces * (16 / sizeof(T));
    store_runs(upper, lane, p);
    store_runs(lower, lane, p + std::int64_t{8} * weight.k);
  }
}

template <class T, class Layout>
void expand(const Launch& launch, const Layout& weight, int first_row, int rows, T* out) {
  if (is_tiled(weight)) {
    constexpr auto kKernel = expand_tiles_kernel<Layout, T>;
    constexpr int kShared = TileView<Layout>::kHasTable ? kPairTableBytes : 0;
    allow_shared_memory<kKernel>();
    const int most = rows / kTileRows * (weight.k / (16 * TileView<Layout>::kSteps)) / (kExpandThreads / 32) + 1;
    const int blocks = std::min(most, resident_blocks<kKernel>(kExpandThreads, kShared) * launch.processors);
    launch_overlapped(launch, kKernel, dim3(static_cast<unsigned>(blocks)), kExpandThreads, kShared,
                      TileView<Layout>(weight), first_row / kTileRows, rows / kTileRows, out);
    return;
  }
  const dim3 grid(static_cast<unsigned>((weight.k + 255) / 256), static_cast<unsigned>(rows));
  launch_overlapped(launch, decode_rows_kernel<PlainView<Layout>, T>, grid, 256, 0, PlainView<Layout>(weight),
                    first_row, weight.k, out);
}

}  // namespace

/// Rows [first_row, first_row + rows) of x. `room` holds a row of tiles or more.
template <class T, class Layout>
void linear_expand(const Launch& launch, Matmul& matmul, std::span<std::byte> room, Tensor x, int first_row, int rows,
                   Length length, const Projection& projection) {
  const Layout& weight = std::get<Layout>(projection.linear.weight);
  if constexpr (std::is_same_v<Layout, Dense<T>>) {
    matmul.multiply<T>(launch, weight.values.template as<T>(), 0, weight.n, x, first_row, rows, length, projection);
  } else {
    const std::size_t row_bytes = static_cast<std::size_t>(weight.k) * sizeof(T);
    constexpr std::size_t kMostRows = 32768;  // of a launch; a grid has no more than 65535
    const int most =
        std::max(kTileRows, static_cast<int>(std::min(room.size() / row_bytes, kMostRows)) / kTileRows * kTileRows);
    const int parts = (weight.n + most - 1) / most;
    const int step = (weight.n + parts * kTileRows - 1) / (parts * kTileRows) * kTileRows;
    for (int first = 0; first < weight.n; first += step) {
      const int count = std::min(step, weight.n - first);
      expand<T>(launch, weight, first, count, reinterpret_cast<T*>(room.data()));
      matmul.multiply<T>(launch, reinterpret_cast<const T*>(room.data()), first, count, x, first_row, rows, length,
                         projection);
    }
  }
}

}  // namespace nibble
