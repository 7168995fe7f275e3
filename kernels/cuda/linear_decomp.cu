// LLM.int8()'s way (Int8Decomp says what is computed): a kernel takes rows of x apart into whole numbers and outliers,
// another multiplies. Whole numbers go through the tensor cores; their sums are exact, so any division of the work has
// the same bits. The outliers of a row are few, and each result adds its own up.
#include "kernels/cuda/linear_decomp.h"

#include <cub/block/block_scan.cuh>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear_plain.cuh"

namespace nibble {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
/// Columns of a tile: those that mma.m16n8k32 adds up.
constexpr int kTileCols = 32;

int tiles_of(int count, int tile) { return (count + tile - 1) / tile; }

/// Rows of x, taken apart. Their codes stand in tiles of 16 rows and 32 columns, zeros beyond the last column: lane
/// 4 g + t has columns 8 t to 8 t + 7 of row g, then of row g + 8. Rows that fill the last tile have any codes.
struct SplitRows {
  uint4* codes;
  float* absmax;       ///< [rows]
  int* outlier_count;  ///< [rows]
  int* outliers;       ///< [rows, k]: their columns, in order
  int rows, k, col_tiles;

  SplitRows(std::byte* room, int count, int columns)
      : rows(count), k(columns), col_tiles(tiles_of(columns, kTileCols)) {
    const int padded = tiles_of(rows, kTileRows) * kTileRows;
    codes = reinterpret_cast<uint4*>(room);
    absmax = reinterpret_cast<float*>(codes + static_cast<std::int64_t>(padded) * col_tiles * (kTileCols / 16));
    outlier_count = reinterpret_cast<int*>(absmax + padded);
    outliers = outlier_count + padded;
  }

  /// The eight codes that begin at a column, a multiple of 8.
  __device__ uint2* eight(int row, int col) const {
    const std::int64_t tile = static_cast<std::int64_t>(row / kTileRows) * col_tiles + col / kTileCols;
    const int lane = row % 8 * 4 + col % kTileCols / 8;
    return reinterpret_cast<uint2*>(codes + tile * 32 + lane) + row % kTileRows / 8;
  }
  /// A lane's codes of a tile: rows g and g + 8, zeros where there are none.
  __device__ uint4 fragment(int row_tile, int col_tile, int lane) const {
    const uint4* const place = codes + (static_cast<std::int64_t>(row_tile) * col_tiles + col_tile) * 32 + lane;
    const int row = row_tile * kTileRows + lane / 4;
    if (row + 8 < rows) return *place;
    const uint2 upper = row < rows ? *reinterpret_cast<const uint2*>(place) : uint2{};
    return {upper.x, upper.y, 0, 0};
  }
};

/// Eight elements from a column on, rounded to fp16; zeros beyond the last.
template <class T>
__device__ __forceinline__ void load_elements(const T* row, int col, int k, float (&values)[8]) {
  if (k % 8 == 0 && col < k) {
    load8(row + col, values);
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i] = col + i < k ? to_f32(row[col + i]) : 0.0F;
  }
#pragma unroll
  for (float& value : values) value = rounded_f32<Half>(value);
}

/// NaNs are outliers too, so that they stay what they are.
__device__ __forceinline__ bool is_outlier(float value) { return !(fabsf(value) < Int8Decomp::kOutlier); }

/// One block for each row.
template <class T>
__global__ void __launch_bounds__(kThreads) split_rows_kernel(const T* x, SplitRows split) {
  using Scan = cub::BlockScan<int, kThreads>;
  __shared__ typename Scan::TempStorage scan;
  __shared__ int largest_bits;  // of a magnitude, which are in its order
  let_next_kernel_start();
  if (threadIdx.x == 0) largest_bits = 0;
  __syncthreads();
  wait_for_previous_kernel();
  const int row = blockIdx.x, begin = 8 * static_cast<int>(threadIdx.x);
  const T* elements = x + static_cast<std::int64_t>(row) * split.k;
  float largest = 0;
  for (int col = begin; col < split.k; col += 8 * kThreads) {
    float values[8];
    load_elements(elements, col, split.k, values);
#pragma unroll
    for (const float value : values) largest = fmaxf(largest, is_outlier(value) ? 0.0F : fabsf(value));
  }
  const int of_warp = __reduce_max_sync(0xffffffffU, __float_as_int(largest));
  if (threadIdx.x % 32 == 0) atomicMax(&largest_bits, of_warp);
  __syncthreads();
  const float absmax = __int_as_float(largest_bits), inverse = absmax > 0 ? 127 / absmax : 0;

  int* const columns = split.outliers + static_cast<std::int64_t>(row) * split.k;
  int found = 0;
  for (int first = 0; first < split.k; first += 8 * kThreads) {
    const int col = first + begin;
    float values[8];
    load_elements(elements, col, split.k, values);
    std::uint32_t bytes[2] = {}, outliers = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const bool outlier = is_outlier(values[i]);
      const auto code = static_cast<std::uint32_t>(outlier ? 0 : __float2int_rn(values[i] * inverse));
      bytes[i / 4] |= (code & 255) << (8 * (i % 4));
      outliers |= (outlier ? 1U : 0U) << i;
    }
    if (col < split.col_tiles * kTileCols) *split.eight(row, col) = {bytes[0], bytes[1]};
    int place, all;
    Scan(scan).ExclusiveSum(__popc(outliers), place, all);
    for (; outliers != 0; outliers &= outliers - 1) columns[found + place++] = col + __ffs(outliers) - 1;
    found += all;
    __syncthreads();
  }
  if (threadIdx.x == 0) split.absmax[row] = absmax, split.outlier_count[row] = found;
}

/// What a lane gives mma.m16n8k32 of a tile of codes: columns 8 t to 8 t + 3 of rows g and g + 8, then 8 t + 4 to
/// 8 t + 7 of both; zeros beyond the last row.
__device__ __forceinline__ uint4 fragment(const TileView<Int8Row>& weight, int row_tile, int col_tile, int lane) {
  if (row_tile * kTileRows >= weight.n) return {};
  const uint4 w = weight.load(weight.place(row_tile, lane), 0, col_tile);
  return {__byte_perm(w.x, w.y, 0x5410), __byte_perm(w.x, w.y, 0x7632), __byte_perm(w.z, w.w, 0x5410),
          __byte_perm(w.z, w.w, 0x7632)};
}
/// The same of one that stands as in its file.
__device__ __forceinline__ uint4 fragment(const PlainView<Int8Decomp>& plain, int row_tile, int col_tile, int lane) {
  const auto& w = plain.view;
  std::uint32_t words[4] = {};
  for (int i = 0; i < 16; ++i) {
    const int row = row_tile * kTileRows + lane / 4 + i / 4 % 2 * 8;
    const int col = col_tile * kTileCols + lane % 4 * 8 + i / 8 * 4 + i % 4;
    if (row >= w.n || col >= w.k) continue;
    words[i / 4] |=
        static_cast<std::uint32_t>(static_cast<std::uint8_t>(w.codes[static_cast<std::int64_t>(row) * w.k + col]))
        << (8 * (i % 4));
  }
  return {words[0], words[1], words[2], words[3]};
}

__device__ __forceinline__ float scb_of(const TileView<Int8Row>& weight, int row) { return weight.scb[row]; }
__device__ __forceinline__ float scb_of(const PlainView<Int8Decomp>& weight, int row) { return weight.view.scb[row]; }

/// d += a b for 16 x 32 codes of w and 8 x 32 of x, as fragments have them (PTX ISA, mma.m16n8k32).
__device__ __forceinline__ void mma_codes(int (&d)[4], const uint4& a, std::uint32_t b0, std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}

/// One of the linears of a launch.
template <class T, class View>
struct Task {
  View weight;
  int n;
  Finish<T> finish;
};
template <class T, class View>
struct Tasks {
  Task<T, View> of[kMostProjections];
};

/// How a block divides its work: a warp has kWTiles row tiles of w and all kXTiles of x; kParts warps have the same,
/// and every kParts-th column tile of them. kAhead tiles are on their way while as many are multiplied.
template <int kW, int kX, int kP, int kA>
struct Shape {
  static constexpr int kWTiles = kW, kXTiles = kX, kParts = kP, kAhead = kA;
  static constexpr int kWRows = kWarps / kParts * kWTiles * kTileRows, kXRows = kXTiles * kTileRows;  // of a block
};
using FewRows = Shape<1, 1, 8, 4>;
using ManyRows = Shape<2, 4, 4, 1>;

template <class T, class View, class Shape>
__global__ void __launch_bounds__(kThreads)
    multiply_split_kernel(Tasks<T, View> tasks, SplitRows split, const T* x, int rows) {
  constexpr int kWTiles = Shape::kWTiles, kXTiles = Shape::kXTiles, kParts = Shape::kParts, kAhead = Shape::kAhead;
  constexpr int kWRows = Shape::kWRows, kXRows = Shape::kXRows;
  __shared__ int sums[kXRows * kWRows];
  const Task<T, View>& task = tasks.of[blockIdx.z];
  const int first_w = blockIdx.x * kWRows, first_x = blockIdx.y * kXRows;
  let_next_kernel_start();
  if (first_w >= task.n) return;
  for (int i = threadIdx.x; i < kXRows * kWRows; i += kThreads) sums[i] = 0;
  __syncthreads();

  struct Fragments {
    uint4 w[kWTiles], x[kXTiles];
  };
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, part = warp % kParts, group = warp / kParts;
  const int w_tile = first_w / kTileRows + group * kWTiles, x_tile = first_x / kTileRows;
  const auto load_w = [&](int col_tile, Fragments& f) {
#pragma unroll
    for (int i = 0; i < kWTiles; ++i) {
      f.w[i] = col_tile < split.col_tiles ? fragment(task.weight, w_tile + i, col_tile, lane) : uint4{};
    }
  };
  const auto load_x = [&](int col_tile, Fragments& f) {
#pragma unroll
    for (int i = 0; i < kXTiles; ++i) {
      f.x[i] = col_tile < split.col_tiles ? split.fragment(x_tile + i, col_tile, lane) : uint4{};
    }
  };
  int d[kWTiles][kXTiles][2][4] = {};
  Fragments ahead[kAhead];
#pragma unroll
  for (int i = 0; i < kAhead; ++i) load_w(part + i * kParts, ahead[i]);
  wait_for_previous_kernel();
#pragma unroll
  for (int i = 0; i < kAhead; ++i) load_x(part + i * kParts, ahead[i]);
  for (int col_tile = part; col_tile < split.col_tiles; col_tile += kAhead * kParts) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const Fragments f = ahead[i];
      load_w(col_tile + (kAhead + i) * kParts, ahead[i]);
      load_x(col_tile + (kAhead + i) * kParts, ahead[i]);
#pragma unroll
      for (int w = 0; w < kWTiles; ++w) {
#pragma unroll
        for (int j = 0; j < kXTiles; ++j) {
          mma_codes(d[w][j][0], f.w[w], f.x[j].x, f.x[j].y);
          mma_codes(d[w][j][1], f.w[w], f.x[j].z, f.x[j].w);
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kWTiles * kXTiles * 8; ++i) {
    const int w = i / (8 * kXTiles), j = i / 8 % kXTiles, half = i / 4 % 2, value = i % 4;
    const int w_row = (group * kWTiles + w) * kTileRows + lane / 4 + value / 2 * 8;
    const int x_row = j * kTileRows + half * 8 + lane % 4 * 2 + value % 2;
    atomicAdd(&sums[x_row * kWRows + w_row], d[w][j][half][value]);
  }
  __syncthreads();

  for (int i = threadIdx.x; i < kXRows * kWRows; i += kThreads) {
    const int column = first_w + i % kWRows, row = first_x + i / kWRows;
    if (column >= task.n || row >= rows) continue;
    const std::int64_t place = static_cast<std::int64_t>(row) * task.n + column;
    const auto finish_with = task.finish.fetch(column, place);
    const T* elements = x + static_cast<std::int64_t>(row) * split.k;
    const int* outliers = split.outliers + static_cast<std::int64_t>(row) * split.k;
    float beside = 0;
    for (int j = 0; j < split.outlier_count[row]; ++j) {
      const int col = outliers[j];
      beside = fmaf(to_f32(elements[col]), rounded_f32<T>(task.weight.at(column, col)), beside);
    }
    const float scale = scb_of(task.weight, column) * split.absmax[row];
    task.finish(static_cast<float>(sums[i]) * scale * Int8Decomp::View::kInverse127Squared + beside, finish_with,
                place);
  }
}

template <class Shape, class T, class View>
void multiply_split(const Launch& launch, const Tasks<T, View>& tasks, std::size_t count, const SplitRows& split,
                    Tensor x, int rows) {
  int widest = 0;
  for (std::size_t i = 0; i < count; ++i) widest = std::max(widest, tasks.of[i].n);
  const dim3 grid(static_cast<unsigned>(tiles_of(widest, Shape::kWRows)),
                  static_cast<unsigned>(tiles_of(rows, Shape::kXRows)), static_cast<unsigned>(count));
  launch_overlapped(launch, multiply_split_kernel<T, View, Shape>, grid, kThreads, 0, tasks, split, x.row<T>(0), rows);
}

}  // namespace

std::size_t decomp_bytes(int rows, int k) {
  const auto padded = static_cast<std::size_t>(tiles_of(rows, kTileRows)) * kTileRows;
  const auto codes = static_cast<std::size_t>(tiles_of(k, kTileCols)) * kTileCols;
  return padded * (codes + sizeof(float) + sizeof(int) + static_cast<std::size_t>(k) * sizeof(int));
}

template <class T>
void linear_decomp(const Launch& launch, std::span<std::byte> room, Tensor x, int first_row, int rows,
                   std::span<const Projection> projections) {
  const int step = static_cast<int>(room.size() / decomp_bytes(kTileRows, x.cols)) * kTileRows;
  for (int done = 0; done < rows; done += step) {
    const int first = first_row + done, count = std::min(step, rows - done);
    const Tensor part = x.slice(first, count);
    const SplitRows split(room.data(), count, x.cols);
    launch_overlapped(launch, split_rows_kernel<T>, dim3(static_cast<unsigned>(count)), kThreads, 0, part.row<T>(0),
                      split);
    with_view(std::get<Int8Decomp>(projections[0].linear.weight), [&]<class View>(const View&) {
      const auto task = [&](std::size_t i) {
        const Projection& p = projections[std::min(i, projections.size() - 1)];
        const auto& weight = std::get<Int8Decomp>(p.linear.weight);
        return Task<T, View>{View(weight), weight.n, Finish<T>(p, first)};
      };
      const Tasks<T, View> tasks{{task(0), task(1), task(2)}};
      static_assert(kMostProjections == 3);
      if (count <= FewRows::kXRows) {
        multiply_split<FewRows>(launch, tasks, projections.size(), split, part, count);
      } else {
        multiply_split<ManyRows>(launch, tasks, projections.size(), split, part, count);
      }
    });
  }
}

template void linear_decomp<float>(const Launch&, std::span<std::byte>, Tensor, int, int, std::span<const Projection>);
template void linear_decomp<Half>(const Launch&, std::span<std::byte>, Tensor, int, int, std::span<const Projection>);
template void linear_decomp<BFloat16>(const Launch&, std::span<std::byte>, Tensor, int, int,
                                      std::span<const Projection>);

}  // namespace nibble
