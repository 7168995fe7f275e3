// Many rows of x: weights are turned into plain 16 or 32-bit ones, some megabytes at a time, and cuBLASLt multiplies
// them. A weight is rounded to the compute dtype once.
#pragma once

#include "kernels/cuda/linear_plain.cuh"
#include "kernels/cuda/matmul.h"

namespace nibble {

namespace {

// A warp makes 16 rows plain, 256 bytes of each at a time. What its lanes hold goes through shared memory, where rows
// stand apart so that they begin in different banks, so that memory is written in whole lines.
inline constexpr int kExpandThreads = 256, kExpandRowBytes = 256, kExpandPitch = kExpandRowBytes + 16;
inline constexpr int kExpandWarpBytes = kTileRows * kExpandPitch;
inline constexpr int kExpandBytes = kExpandThreads / 32 * kExpandWarpBytes;

/// A lane's run of a row, to where the row stands.
template <class T, int kRun>
__device__ __forceinline__ void put_run(const float (&run)[kRun], char* p) {
  constexpr int kPieces = kRun * static_cast<int>(sizeof(T)) / 16;
#pragma unroll
  for (int i = 0; i < kPieces; ++i) reinterpret_cast<uint4*>(p)[i] = pack16<T>(run + i * kRun / kPieces);
}

/// A lane's two runs of a tile; `p` is where the upper one goes.
template <class T, class View>
__device__ __forceinline__ void put_tile(const View& weight, const typename View::Loaded& tile, float2 row_scales,
                                         std::uint32_t column, char* p) {
  float2 scale = weight.scales(tile);
  scale.x *= row_scales.x, scale.y *= row_scales.y;
  float upper[4 * View::kSteps], lower[4 * View::kSteps];
  const auto take = [&]<int kStep>(std::integral_constant<int, kStep>) {
    Factors32 f;
    weight.template factors<float, kStep>(tile, column, f);
    float *u = upper + 4 * kStep, *l = lower + 4 * kStep;
    u[0] = f.v[0].x * scale.x, u[1] = f.v[0].y * scale.x, u[2] = f.v[2].x * scale.x, u[3] = f.v[2].y * scale.x;
    l[0] = f.v[1].x * scale.y, l[1] = f.v[1].y * scale.y, l[2] = f.v[3].x * scale.y, l[3] = f.v[3].y * scale.y;
  };
  [&]<int... kStep>(std::integer_sequence<int, kStep...>) { (take(std::integral_constant<int, kStep>{}), ...); }
  (std::make_integer_sequence<int, View::kSteps>{});
  put_run<T>(upper, p);
  put_run<T>(lower, p + 8 * kExpandPitch);
}

template <class Layout, class T>
__global__ void __launch_bounds__(kExpandThreads, 2)
    expand_tiles_kernel(TileView<Layout> weight, int first_tile, int tiles, T* out) {
  using View = TileView<Layout>;
  constexpr int kCols = 16 * View::kSteps, kTileRowBytes = kCols * static_cast<int>(sizeof(T));
  constexpr int kAcross = kExpandRowBytes / kTileRowBytes;                   // tiles
  constexpr int kPieces = kExpandRowBytes / 16, kRowsAtOnce = 32 / kPieces;  // of what is written
  let_next_kernel_start();
  extern __shared__ __align__(256) char shared[];
  if constexpr (View::kHasTable) {
    fill_pair_table<float, kExpandThreads>(weight.levels, shared);
    __syncthreads();
  }
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const std::uint32_t column = column_of<float>(lane);
  char* const rows = shared + (View::kHasTable ? kPairTableBytes : 0) + warp * kExpandWarpBytes;
  char* const runs = rows + lane / 4 * kExpandPitch + lane % 4 * (kTileRowBytes / 4);
  const char* const pieces = rows + lane / kPieces * kExpandPitch + lane % kPieces * 16;

  const int col_tiles = weight.k / kCols, cols = (col_tiles + kAcross - 1) / kAcross;
  const int warps = static_cast<int>(gridDim.x * (kExpandThreads / 32));
  const int first = static_cast<int>(blockIdx.x * (kExpandThreads / 32)) + warp;
  const int rows_on = warps / cols, cols_on = warps % cols;
  int row = first / cols, col = first % cols;
  typename View::Loaded loaded[kAcross];
  const auto load = [&](int i) {  // behind the end the last one again
    const auto place = weight.place(first_tile + min(row, tiles - 1), lane);
    loaded[i] = weight.load(place, 0, min(col * kAcross + i, col_tiles - 1));
  };
#pragma unroll
  for (int i = 0; i < kAcross; ++i) load(i);
  wait_for_previous_kernel();
  while (row < tiles) {
    const int weight_row = (first_tile + row) * kTileRows + lane / 4;
    const float2 row_scales = {weight.row_scale(weight_row), weight.row_scale(weight_row + 8)};
    const int out_row = row * kTileRows + lane / kPieces;
    const int out_col = (col * kExpandRowBytes + lane % kPieces * 16) / static_cast<int>(sizeof(T));
    row += rows_on, col += cols_on;
    if (col >= cols) ++row, col -= cols;
    __syncwarp();  // what was written before has been read
#pragma unroll
    for (int i = 0; i < kAcross; ++i) {
      put_tile<T>(weight, loaded[i], row_scales, column, runs + i * kTileRowBytes);
      load(i);
    }
    __syncwarp();
    if (out_col >= weight.k) continue;
    T* const p = out + static_cast<std::int64_t>(out_row) * weight.k + out_col;
#pragma unroll
    for (int i = 0; i < kTileRows; i += kRowsAtOnce) {
      *reinterpret_cast<uint4*>(p + i * weight.k) = *reinterpret_cast<const uint4*>(pieces + i * kExpandPitch);
    }
  }
}

template <class T, class Layout>
void expand(const Launch& launch, const Layout& weight, int first_row, int rows, T* out) {
  if (is_tiled(weight)) {
    constexpr auto kKernel = expand_tiles_kernel<Layout, T>;
    constexpr int kShared = (TileView<Layout>::kHasTable ? kPairTableBytes : 0) + kExpandBytes;
    static_assert(kShared <= 99 << 10);
    allow_shared_memory<kKernel>();
    const int across = kExpandRowBytes / static_cast<int>(sizeof(T));
    const int most = rows / kTileRows * ((weight.k + across - 1) / across) / (kExpandThreads / 32) + 1;
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
