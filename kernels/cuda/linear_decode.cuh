// Few rows of x: weights stream from memory through registers once, whatever the number of rows.
//
// A block owns some rows of tiles, as many as let all blocks be on the machine at once, and its warps divide the
// columns of each among them and add up what they have in their order. Every lane keeps several tiles in flight. 16-bit
// factors go through the tensor cores with the weights as the larger operand, so that 1 to 8 rows of x cost the same;
// sums are fp32, and the absmax of a block multiplies its fp32 sum. How columns are divided depends on the shape of the
// weights alone, so a row's result does not depend on the rows beside it.
//
//   prefetch weights -> wait for the kernel before -> x (normalised) to shared memory -> tiles -> sums -> finish
#pragma once

#include "kernels/cuda/check.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/norm.cuh"

namespace nibble {
namespace {

constexpr int kMostWarps = 16;

template <class Layout, class T>
struct DecodeTask {
  struct Part {
    TileView<Layout> weight;
    Finish<T> finish;
    int end;  ///< the row tile behind its last, counted through all parts
  };
  Part parts[kMostProjections];
  int tiles;  ///< rows of tiles in all parts
  int rows;   ///< of x
  int k;
  int x_pitch;  ///< bytes from row to row of x in shared memory, or of x itself
  const T* x;
  NormTask<T> norm;
  bool normed;

  __device__ __forceinline__ int part_of(int tile) const {
    return tile < parts[0].end ? 0 : tile < parts[1].end ? 1 : 2;
  }
  __device__ __forceinline__ int first_of(int part) const { return part == 0 ? 0 : parts[part - 1].end; }
};

/// Sums of 16 rows of weights and kColumns rows of x, a warp's share. `x` points to the lane's run of columns.
template <class T, int kColumns>
struct Sums {
  float d[kColumns / 8][4];
  int row_of_x[kColumns / 8];  ///< bytes to the row of x that is this lane's column
  bool has_row[kColumns / 8];  ///< whether there is one; other columns come out as anything

  __device__ __forceinline__ Sums(int lane, int rows, int pitch) {
#pragma unroll
    for (int c = 0; c < kColumns / 8; ++c) {
      has_row[c] = c * 8 + lane / 4 < rows;
      row_of_x[c] = (c * 8 + lane / 4) * pitch;
    }
  }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (auto& column : d) column[0] = column[1] = column[2] = column[3] = 0;
  }

  template <class View>
  __device__ __forceinline__ void add(const View& view, const typename View::Loaded& loaded, int lane, const char* x) {
    constexpr int kSteps = View::kSteps;
    std::uint32_t b[kColumns / 8][2 * kSteps];
#pragma unroll
    for (int c = 0; c < kColumns / 8; ++c) {
      const uint4* p = reinterpret_cast<const uint4*>(x + row_of_x[c]);
#pragma unroll
      for (int i = 0; i < kSteps / 2; ++i) {
        uint4 v{};
        if (has_row[c]) v = p[i];
        b[c][4 * i] = v.x, b[c][4 * i + 1] = v.y, b[c][4 * i + 2] = v.z, b[c][4 * i + 3] = v.w;
      }
    }
    if constexpr (View::kHasBlocks) {
      float block[kColumns / 8][4] = {};
      multiply<0>(view, loaded, lane, b, block);
      const float2 scale = view.scales(loaded);
#pragma unroll
      for (int c = 0; c < kColumns / 8; ++c) {
        d[c][0] = fmaf(block[c][0], scale.x, d[c][0]), d[c][1] = fmaf(block[c][1], scale.x, d[c][1]);
        d[c][2] = fmaf(block[c][2], scale.y, d[c][2]), d[c][3] = fmaf(block[c][3], scale.y, d[c][3]);
      }
    } else {
      multiply<0>(view, loaded, lane, b, d);
    }
  }

  template <int Step, class View, int kWords>
  __device__ __forceinline__ static void multiply(const View& view, const typename View::Loaded& loaded, int lane,
                                                  const std::uint32_t (&b)[kColumns / 8][kWords],
                                                  float (&sums)[kColumns / 8][4]) {
    std::uint32_t a[4];
    view.template factors<T, Step>(loaded, lane, a);
#pragma unroll
    for (int c = 0; c < kColumns / 8; ++c) mma<T>(sums[c], a, b[c][2 * Step], b[c][2 * Step + 1]);
    if constexpr (Step + 1 < View::kSteps) multiply<Step + 1>(view, loaded, lane, b, sums);
  }

  /// Leaves the warp's sums as float[16][kColumns].
  __device__ __forceinline__ void store(float* out, int lane) const {
#pragma unroll
    for (int c = 0; c < kColumns / 8; ++c) {
      float* p = out + lane / 4 * kColumns + c * 8 + lane % 4 * 2;
      *reinterpret_cast<float2*>(p) = {d[c][0], d[c][1]};
      *reinterpret_cast<float2*>(p + 8 * kColumns) = {d[c][2], d[c][3]};
    }
  }
};

/// The same in fp32, on the ordinary units: no rounding of factors.
template <int kColumns>
struct Sums<float, kColumns> {
  float d[kColumns][2];
  int rows, pitch;

  __device__ __forceinline__ Sums(int, int rows_of_x, int pitch_of_x) : rows(rows_of_x), pitch(pitch_of_x) {}

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (auto& column : d) column[0] = column[1] = 0;
  }

  template <class View>
  __device__ __forceinline__ void add(const View& view, const typename View::Loaded& loaded, int lane, const char* x) {
    Factors32 w[View::kSteps];
    decode<0>(view, loaded, lane, w);
    float2 scale{1.0F, 1.0F};
    if constexpr (View::kHasBlocks) scale = view.scales(loaded);
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      if (c >= rows) break;
      const float4* p = reinterpret_cast<const float4*>(x + c * pitch);
      float upper = 0, lower = 0;
#pragma unroll
      for (int i = 0; i < View::kSteps; ++i) {
        const float4 v = p[i];
        upper = fmaf(w[i].v[0].x, v.x, fmaf(w[i].v[0].y, v.y, fmaf(w[i].v[2].x, v.z, fmaf(w[i].v[2].y, v.w, upper))));
        lower = fmaf(w[i].v[1].x, v.x, fmaf(w[i].v[1].y, v.y, fmaf(w[i].v[3].x, v.z, fmaf(w[i].v[3].y, v.w, lower))));
      }
      d[c][0] = fmaf(upper, scale.x, d[c][0]);
      d[c][1] = fmaf(lower, scale.y, d[c][1]);
    }
  }

  template <int Step, class View>
  __device__ __forceinline__ static void decode(const View& view, const typename View::Loaded& loaded, int lane,
                                                Factors32 (&w)[View::kSteps]) {
    view.template factors<float, Step>(loaded, lane, w[Step]);
    if constexpr (Step + 1 < View::kSteps) decode<Step + 1>(view, loaded, lane, w);
  }

  __device__ __forceinline__ void store(float* out, int lane) const {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      if (c >= rows) break;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float v = d[c][half];
        v += __shfl_xor_sync(0xffffffffU, v, 1);
        v += __shfl_xor_sync(0xffffffffU, v, 2);
        if (lane % 4 == 0) out[(lane / 4 + 8 * half) * kColumns + c] = v;
      }
    }
  }
};

/// One of a block's results, and what it will be finished with: number `i` of `results`, of which rows of a tile come
/// first, then rows of x, then the block's rows of tiles from `base` on. Beyond the last there is nothing to do.
template <class Layout, class T>
class Result {
 public:
  __device__ __forceinline__ Result(const DecodeTask<Layout, T>& task, int base, int i, int results) {
    if (i >= results) return;
    const int tile = base + i / (kTileRows * task.rows);
    const int part = task.part_of(tile);
    part_ = task.parts + part;
    const int column = (tile - task.first_of(part)) * kTileRows + i % kTileRows;
    place_ = static_cast<std::int64_t>(i / kTileRows % task.rows) * part_->weight.n + column;
    ahead_ = part_->finish.fetch(column, place_);
    scale_ = part_->weight.row_scale(column);
  }
  __device__ __forceinline__ void finish(float sum) const { part_->finish(sum * scale_, ahead_, place_); }

 private:
  const typename DecodeTask<Layout, T>::Part* part_;
  std::int64_t place_;
  typename Finish<T>::Ahead ahead_;
  float scale_;
};

/// How the work is divided: blocks take `rows_of_tiles` at a time, of which each has `warps` warps.
struct Division {
  int rows_of_tiles, warps;
};

/// kStaged: x comes from shared memory, where it may be normalised on the way.
template <class Layout, class T, int kColumns, bool kStaged>
__global__ void __launch_bounds__(kMostWarps * 32, sizeof(T) == 2 && kColumns == 8 ? 2 : 1)
    linear_decode_kernel(const __grid_constant__ DecodeTask<Layout, T> task, Division division) {
  using View = TileView<Layout>;
  constexpr int kCols = 16 * View::kSteps;
  constexpr int kAhead = View::kAhead;
  constexpr int kSums = kTileRows * kColumns;  // of a warp
  extern __shared__ __align__(256) char shared[];
  float* const partial = reinterpret_cast<float*>(shared + (View::kHasTable ? kPairTableBytes : 0));
  char* const staged = reinterpret_cast<char*>(partial + kMostWarps * kSums);
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;

  // This warp's row of tiles, and its columns of that.
  const int own = warp / division.warps, share = warp % division.warps;
  const int col_tiles = task.k / kCols;
  const int first = share * col_tiles / division.warps;
  const int last = own < division.rows_of_tiles ? (share + 1) * col_tiles / division.warps : first;

  typename View::Loaded loaded[kAhead];
  typename View::Row row_of_tiles{};
  const auto begin_row = [&](int tile) {
    if (tile >= task.tiles) return;
    const int part = task.part_of(tile);
    row_of_tiles = task.parts[part].weight.row(tile - task.first_of(part), lane);
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (first + i < last) loaded[i] = task.parts[0].weight.load(row_of_tiles, first + i);
    }
  };
  const int step = static_cast<int>(gridDim.x) * division.rows_of_tiles;
  int base = static_cast<int>(blockIdx.x) * division.rows_of_tiles;
  begin_row(base + own);

  NormTask<T> norm = task.norm;
  if (kStaged && task.normed) stage_parameters(norm, task.k, staged + task.rows * task.x_pitch);
  if constexpr (View::kHasTable) fill_pair_table<T>(task.parts[0].weight.levels, shared);
  let_next_kernel_start();
  wait_for_previous_kernel();
  if constexpr (kStaged) {
    stage_rows<T, Writer::kFirstBlock>(task.x, task.rows, task.k, task.normed ? &norm : nullptr, staged, task.x_pitch,
                                       partial);
  }
  __syncthreads();

  const char* const x = (kStaged ? staged : reinterpret_cast<const char*>(task.x)) +
                        lane % 4 * (4 * View::kSteps) * static_cast<int>(sizeof(T));
  Sums<T, kColumns> sums(lane, task.rows, task.x_pitch);
  for (; base < task.tiles; base += step) {
    // What results will be finished with is on its way while they are computed.
    const int results = min(division.rows_of_tiles, task.tiles - base) * kTileRows * task.rows;
    Result<Layout, T> result(task, base, threadIdx.x, results);

    const int tile = base + own;
    if (tile < task.tiles) {
      const TileView<Layout>& weight = task.parts[task.part_of(tile)].weight;
      sums.clear();
      for (int begin = first; begin < last; begin += kAhead) {
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
          if (begin + i < last) {
            sums.add(weight, loaded[i], lane, x + (begin + i) * kCols * static_cast<int>(sizeof(T)));
          }
          if (begin + i + kAhead < last) loaded[i] = weight.load(row_of_tiles, begin + i + kAhead);
        }
      }
      if (own < division.rows_of_tiles) sums.store(partial + warp * kSums, lane);
    }
    __syncthreads();
    begin_row(tile + step);
    for (int i = threadIdx.x; i < results; i += blockDim.x) {
      const int place = i % kTileRows * kColumns + i / kTileRows % task.rows;
      const float* const shares = partial + i / (kTileRows * task.rows) * division.warps * kSums + place;
      float sum = 0;
      for (int w = 0; w < division.warps; ++w) sum += shares[w * kSums];
      result.finish(sum);
      result = Result<Layout, T>(task, base, i + blockDim.x, results);
    }
    if (base + step < task.tiles) __syncthreads();
  }
}

/// Blocks that work is divided for: two on each multiprocessor of the GPU this was tuned on. A constant, so that sums
/// are the same on every GPU.
constexpr int kBlocks = 264;

Division divide(int tiles, int col_tiles) {
  const int rows_of_tiles = std::min((tiles + kBlocks - 1) / kBlocks, kMostWarps);
  return {rows_of_tiles, std::min(kMostWarps / rows_of_tiles, col_tiles)};
}

template <class Layout, class T, int kColumns>
bool launch_decode(const Launch& launch, DecodeTask<Layout, T>& task) {
  using View = TileView<Layout>;
  constexpr int kThreads = kMostWarps * 32;
  constexpr int kBase = (View::kHasTable ? kPairTableBytes : 0) + kMostWarps * kTileRows * kColumns * 4;
  const Division division = divide(task.tiles, task.k / (16 * View::kSteps));
  const int blocks = (task.tiles + division.rows_of_tiles - 1) / division.rows_of_tiles;
  const int row_bytes = task.k * static_cast<int>(sizeof(T));
  const int staged = kBase + task.rows * (row_bytes + 16) + (task.normed ? 2 * row_bytes : 0);
  if (staged <= kMostSharedBytes) {
    task.x_pitch = row_bytes + 16;
    launch_resident(launch, linear_decode_kernel<Layout, T, kColumns, true>, blocks, kThreads, staged, task, division);
    return true;
  }
  if (task.normed) return false;
  task.x_pitch = row_bytes;
  launch_resident(launch, linear_decode_kernel<Layout, T, kColumns, false>, blocks, kThreads, kBase, task, division);
  return true;
}

}  // namespace

template <class T, class Layout>
bool linear_decode(const Launch& launch, const NormView<T>* norm, Tensor x, int first_row, int rows,
                   std::span<const Projection> projections) {
  DecodeTask<Layout, T> task{};
  int tiles = 0;
  for (int i = 0; i < kMostProjections; ++i) {
    if (i < static_cast<int>(projections.size())) {
      const Projection& p = projections[static_cast<std::size_t>(i)];
      task.parts[i].weight = TileView<Layout>(std::get<Layout>(p.linear.weight));
      task.parts[i].finish = Finish<T>(p, first_row);
      tiles += task.parts[i].weight.n / kTileRows;
    }
    task.parts[i].end = tiles;
  }
  task.tiles = tiles;
  task.rows = rows;
  task.k = x.cols;
  task.x = x.row<T>(first_row);
  task.normed = norm != nullptr;
  if (norm != nullptr) {
    task.norm = {norm->weight, norm->bias, norm->y + static_cast<std::int64_t>(first_row) * x.cols};
  }
  return rows <= 8 ? launch_decode<Layout, T, 8>(launch, task) : launch_decode<Layout, T, 16>(launch, task);
}

#define NIBBLE_DECODE(T, ...)                                                                      \
  template bool linear_decode<T, __VA_ARGS__>(const Launch&, const NormView<T>*, Tensor, int, int, \
                                              std::span<const Projection>);

}  // namespace nibble
