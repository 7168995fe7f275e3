// Few rows of x: weights stream from memory through registers once, whatever the number of rows.
//
// A block owns some rows of tiles. Its warps divide the columns, always in the same way for a number of columns, and
// what they have is added up in their order, so a row's result does not depend on the rows beside it or on the GPU. A
// warp computes four tiles at once, which hide each other's latencies, and loads the next four where it has used these.
// 16-bit factors go through the tensor cores with the weights as the larger operand, so that 1 to 8 rows of x cost the
// same; sums are fp32, and the absmax of a block multiplies its fp32 sum.
//
// A block takes half a multiprocessor. Where there is little to do there is one, and beside it a block of the next
// kernel makes its table and loads its first weights meanwhile.
//
//   table of pairs, first weights -> wait for the kernel before -> x (normalised) to shared memory -> tiles -> finish
#pragma once

#include "kernels/cuda/check.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/norm.cuh"

namespace nibble {
namespace {

constexpr int kThreads = kNormThreads;
constexpr int kWarps = kNormWarps;
constexpr int kBatch = 4;  // tiles that a warp computes at once

template <class Layout, class T>
struct DecodeTask {
  struct Part {
    TileView<Layout> weight;
    Finish<T> finish;
    int first_block;    ///< blocks of the parts follow each other
    int block, longer;  ///< rows of tiles a block has; the first `longer` blocks have one more
  };
  Part parts[kMostProjections];
  int round;     ///< rows of tiles whose sums there is room for, a multiple of kBatch
  int rows;      ///< of x
  int row_bits;  ///< that a row of x is numbered with
  int k;
  int x_pitch, x_gap;  ///< of x in shared memory (StagedRows), or of x itself
  const T* x;
  NormTask<T> norm;
  bool normed;
};

/// A warp's way through its weights: tiles [first, last) of each of `rows` rows of tiles, from `row_tile` on. Behind
/// the last row its tiles come again.
template <class View>
class Stream {
 public:
  __device__ __forceinline__ Stream(const View& view, int row_tile, int rows, int first, int last, int lane)
      : view_(view), place_(view.place(row_tile, lane)), rows_(rows), first_(first), last_(last), col_(first) {}

  __device__ __forceinline__ typename View::Loaded next() {
    const auto loaded = view_.load(place_, min(row_, rows_ - 1), col_);
    const bool ends = ++col_ == last_;
    col_ = ends ? first_ : col_;
    row_ += ends ? 1 : 0;
    return loaded;
  }

 private:
  const View& view_;
  typename View::Place place_;
  int rows_, first_, last_;
  int row_ = 0, col_;
};

/// Rows of x as a lane reads them: its run of columns of the first tile, in shared memory or in global memory. For
/// tensor cores a lane has one row of every eight, and the last again where there is none; in fp32 it has all.
template <class T, int kColumns, bool kStaged>
struct RowsOfX {
  static constexpr int kEights = sizeof(T) == 2 ? kColumns / 8 : 1;
  std::conditional_t<kStaged, std::uint32_t, const char*> places[kEights];
  int rows, pitch;

  __device__ __forceinline__ RowsOfX(const char* x, int offset, int lane, int rows_of_x, int pitch_of_x)
      : rows(rows_of_x), pitch(pitch_of_x) {
#pragma unroll
    for (int i = 0; i < kEights; ++i) {
      const int row = sizeof(T) == 2 ? min(i * 8 + lane / 4, rows - 1) : 0;
      if constexpr (kStaged) {
        places[i] = kept(shared_address(x) + static_cast<std::uint32_t>(offset + row * pitch));
      } else {
        places[i] = x + offset + row * pitch;
      }
    }
  }

  /// 16 bytes from `offset` on, of the lane's row of an eight.
  __device__ __forceinline__ uint4 load(int eight, int offset) const {
    if constexpr (kStaged) {
      return load_shared(places[eight] + static_cast<std::uint32_t>(offset));
    } else {
      return *reinterpret_cast<const uint4*>(places[eight] + offset);
    }
  }
};

/// Sums of 16 rows of weights and kColumns rows of x, a warp's share.
template <class T, int kColumns, int kSteps>
struct Sums {
  float d[kColumns / 8][4] = {};

  __device__ __forceinline__ void clear() { *this = {}; }

  __device__ __forceinline__ void add(const Sums& other, float2 scale) {
#pragma unroll
    for (int c = 0; c < kColumns / 8; ++c) {
      d[c][0] = fmaf(other.d[c][0], scale.x, d[c][0]), d[c][1] = fmaf(other.d[c][1], scale.x, d[c][1]);
      d[c][2] = fmaf(other.d[c][2], scale.y, d[c][2]), d[c][3] = fmaf(other.d[c][3], scale.y, d[c][3]);
    }
  }

  /// Adds the products of a tile with x from `offset` on.
  template <class View, class X>
  __device__ __forceinline__ void multiply(const View& view, const typename View::Loaded& loaded, std::uint32_t column,
                                           const X& x, int offset) {
    std::uint32_t b[kColumns / 8][2 * kSteps];
#pragma unroll
    for (int c = 0; c < kColumns / 8; ++c) {
#pragma unroll
      for (int i = 0; i < kSteps / 2; ++i) {
        const uint4 v = x.load(c, offset + 16 * i);
        b[c][4 * i] = v.x, b[c][4 * i + 1] = v.y, b[c][4 * i + 2] = v.z, b[c][4 * i + 3] = v.w;
      }
    }
    step<0>(view, loaded, column, b);
  }

  template <int Step, class View>
  __device__ __forceinline__ void step(const View& view, const typename View::Loaded& loaded, std::uint32_t column,
                                       const std::uint32_t (&b)[kColumns / 8][2 * kSteps]) {
    std::uint32_t a[4];
    view.template factors<T, Step>(loaded, column, a);
#pragma unroll
    for (int c = 0; c < kColumns / 8; ++c) mma<T>(d[c], a, b[c][2 * Step], b[c][2 * Step + 1]);
    if constexpr (Step + 1 < kSteps) step<Step + 1>(view, loaded, column, b);
  }

  /// Leaves the warp's sums as float[rows][16].
  __device__ __forceinline__ void store(float* out, int rows, int lane) const {
#pragma unroll
    for (int c = 0; c < kColumns / 8; ++c) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = c * 8 + lane % 4 * 2 + i % 2;
        if (row < rows) out[row * kTileRows + lane / 4 + i / 2 * 8] = d[c][i];
      }
    }
  }
};

/// The same in fp32, on the ordinary units: no rounding of factors.
template <int kColumns, int kSteps>
struct Sums<float, kColumns, kSteps> {
  float d[kColumns][2] = {};

  __device__ __forceinline__ void clear() { *this = {}; }

  __device__ __forceinline__ void add(const Sums& other, float2 scale) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      d[c][0] = fmaf(other.d[c][0], scale.x, d[c][0]), d[c][1] = fmaf(other.d[c][1], scale.y, d[c][1]);
    }
  }

  template <class View, class X>
  __device__ __forceinline__ void multiply(const View& view, const typename View::Loaded& loaded, std::uint32_t column,
                                           const X& x, int offset) {
    Factors32 w[kSteps];
    decode<0>(view, loaded, column, w);
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      if (c >= x.rows) break;
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        const uint4 word = x.load(0, c * x.pitch + offset + 16 * i);
        const float4 v{__uint_as_float(word.x), __uint_as_float(word.y), __uint_as_float(word.z),
                       __uint_as_float(word.w)};
        float& upper = d[c][0];
        float& lower = d[c][1];
        upper = fmaf(w[i].v[0].x, v.x, fmaf(w[i].v[0].y, v.y, fmaf(w[i].v[2].x, v.z, fmaf(w[i].v[2].y, v.w, upper))));
        lower = fmaf(w[i].v[1].x, v.x, fmaf(w[i].v[1].y, v.y, fmaf(w[i].v[3].x, v.z, fmaf(w[i].v[3].y, v.w, lower))));
      }
    }
  }

  template <int Step, class View>
  __device__ __forceinline__ static void decode(const View& view, const typename View::Loaded& loaded,
                                                std::uint32_t column, Factors32 (&w)[kSteps]) {
    view.template factors<float, Step>(loaded, column, w[Step]);
    if constexpr (Step + 1 < kSteps) decode<Step + 1>(view, loaded, column, w);
  }

  __device__ __forceinline__ void store(float* out, int rows, int lane) const {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      if (c >= rows) break;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float v = d[c][half];
        v += __shfl_xor_sync(0xffffffffU, v, 1);
        v += __shfl_xor_sync(0xffffffffU, v, 2);
        if (lane % 4 == 0) out[c * kTileRows + lane / 4 + 8 * half] = v;
      }
    }
  }
};

/// kStaged: x comes from shared memory, where it may be normalised on the way.
template <class Layout, class T, int kColumns, bool kStaged>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 2 && kColumns == 8 ? 2 : 1)
    linear_decode_kernel(const __grid_constant__ DecodeTask<Layout, T> task) {
  using View = TileView<Layout>;
  using SumsOf = Sums<T, kColumns, View::kSteps>;
  constexpr int kCols = 16 * View::kSteps;
  extern __shared__ __align__(256) char shared[];
  float* const partial = reinterpret_cast<float*>(shared + (View::kHasTable ? kPairTableBytes : 0));
  const int sums_of_warp = kTileRows * task.rows;
  char* const behind = reinterpret_cast<char*>(partial + task.round * kWarps * sums_of_warp);
  const int lane = kept(static_cast<int>(threadIdx.x % 32));
  const int warp = threadIdx.x / 32;

  // The block's rows of tiles, and this warp's columns of them.
  int block = blockIdx.x;
  const auto& part = task.parts[block < task.parts[1].first_block ? 0 : block < task.parts[2].first_block ? 1 : 2];
  const View& view = part.weight;
  block -= part.first_block;
  int tile = block * part.block + min(block, part.longer);
  const int end = tile + part.block + (block < part.longer ? 1 : 0);
  const int col_tiles = task.k / kCols;
  const int first = warp * (col_tiles / kWarps) + min(warp, col_tiles % kWarps);
  const int count = col_tiles / kWarps + (warp < col_tiles % kWarps ? 1 : 0);
  Stream<View> stream(view, tile, end - tile, first, first + count, lane);
  typename View::Loaded loaded[kBatch];
  if (count > 0) {
#pragma unroll
    for (auto& tile_of_batch : loaded) tile_of_batch = stream.next();
  }

  NormTask<T> norm = task.norm;
  if (kStaged && task.normed) stage_parameters(norm, task.k, behind);
  if constexpr (View::kHasTable) fill_pair_table<T>(view.levels, shared);
  let_next_kernel_start();
  wait_for_previous_kernel();
  // Where rows of the table of pairs leave gaps, x stands in them.
  const StagedRows staged{task.x_gap > 0 ? shared + 128 : behind + (task.normed ? 2 * task.k * sizeof(T) : 0),
                          task.x_pitch, task.x_gap};
  if constexpr (kStaged) {
    if (task.normed) {
      stage_normed_rows<T, Writer::kFirstBlock>(task.x, task.rows, task.k, norm, staged,
                                                reinterpret_cast<Moments*>(partial));
    } else {
      stage_rows(task.x, task.rows, task.k, staged);
    }
  }
  // Results by sixteens: number i is of row of x i % 2^row_bits and of row of tiles i / 2^row_bits from `tile` on. Both
  // halves of a warp have the same. What they are finished with is fetched before their sums are there.
  const auto row_of = [&](int i) { return i & ((1 << task.row_bits) - 1); };
  const auto column_of_y = [&](int i) { return (tile + (i >> task.row_bits)) * kTileRows + lane % kTileRows; };
  const auto place_of = [&](int i) { return static_cast<std::int64_t>(row_of(i)) * view.n + column_of_y(i); };
  const auto fetch = [&](int i) {
    const bool there = row_of(i) < task.rows && tile + (i >> task.row_bits) < end;
    return there ? part.finish.fetch(column_of_y(i), place_of(i)) : typename Finish<T>::Ahead{};
  };
  auto ahead = fetch(warp);
  __syncthreads();

  const int step = kCols * static_cast<int>(sizeof(T)) + task.x_gap;
  const std::uint32_t column = kept(column_of<T>(lane));
  const RowsOfX<T, kColumns, kStaged> x(kStaged ? staged.base : reinterpret_cast<const char*>(task.x),
                                        first * step + lane % 4 * (4 * View::kSteps) * static_cast<int>(sizeof(T)),
                                        lane, task.rows, task.x_pitch);
  while (true) {
    const int tiles = min(task.round, end - tile);
    float* out = partial + warp * sums_of_warp;
    SumsOf sums;
    int col = 0;       // of the share, where sums are
    int col_of_x = 0;  // and where products are
    for (int left = tiles * count; left > 0; left -= kBatch) {
      SumsOf products[kBatch];
      float2 scales[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        products[i].multiply(view, loaded[i], column, x, col_of_x * step);
        scales[i] = view.scales(loaded[i]);
        loaded[i] = stream.next();
        if (++col_of_x == count) col_of_x = 0;
      }
      if (left >= kBatch && col + kBatch < count) {
#pragma unroll
        for (int i = 0; i < kBatch; ++i) sums.add(products[i], scales[i]);
        col += kBatch;
        continue;
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (i >= left) break;
        sums.add(products[i], scales[i]);
        if (++col < count) continue;
        sums.store(out, task.rows, lane);
        sums.clear();
        out += kWarps * sums_of_warp;
        col = 0;
      }
    }
    __syncthreads();

    // Half a warp adds up what the first half of the warps have, the other half the rest.
    for (int i = warp; i < tiles << task.row_bits; i += kWarps) {
      if (row_of(i) < task.rows) {
        const float* const parts =
            partial + ((i >> task.row_bits) * kWarps * task.rows + row_of(i)) * kTileRows + lane % kTileRows;
        float sum = 0;
#pragma unroll
        for (int w = 0; w < kWarps / 2; ++w) {
          const int from = lane / kTileRows * (kWarps / 2) + w;
          if (from < col_tiles) sum += parts[from * sums_of_warp];
        }
        sum += __shfl_xor_sync(0xffffffffU, sum, kTileRows);
        if (lane < kTileRows) part.finish(sum * view.row_scale(column_of_y(i)), ahead, place_of(i));
      }
      ahead = fetch(i + kWarps);
    }
    tile += tiles;
    if (tile == end) break;
    ahead = fetch(warp);
    __syncthreads();
  }
}

/// Room for sums: enough for the rows of tiles that a block has of a vocabulary, for one row of x.
constexpr int kSumsBytes = 16 * 1024;

/// Gives each part its share of the blocks: one on each multiprocessor, so that another kernel's has room beside it,
/// or two where a warp has more than one batch.
template <class Layout, class T>
int divide(DecodeTask<Layout, T>& task, int parts, int processors) {
  const auto tiles_of = [&](int part) { return task.parts[part].weight.n / kTileRows; };
  int tiles = 0, blocks = 0;
  for (int i = 0; i < parts; ++i) tiles += tiles_of(i);
  const int col_tiles = task.k / (16 * TileView<Layout>::kSteps);
  const int wanted = tiles * col_tiles > processors * kWarps * kBatch ? 2 * processors : processors;
  for (int i = 0; i < kMostProjections; ++i) {
    auto& part = task.parts[i];
    part.first_block = blocks;
    if (i >= parts) continue;
    const int share = std::clamp(static_cast<int>(std::int64_t{wanted} * tiles_of(i) / tiles), 1, tiles_of(i));
    part.block = tiles_of(i) / share, part.longer = tiles_of(i) % share;
    task.round = std::max(task.round, part.block + 1);
    blocks += share;
  }
  return blocks;
}

template <class Layout, class T, int kColumns>
bool launch_decode(const Launch& launch, DecodeTask<Layout, T>& task, int parts) {
  using View = TileView<Layout>;
  constexpr int kTable = View::kHasTable ? kPairTableBytes : 0;
  const int blocks = divide(task, parts, launch.processors);
  const int sums = kWarps * kTileRows * task.rows * 4;
  // A multiple of a batch, so that a round ends where a batch does.
  task.round = std::min(std::max(kSumsBytes / sums, 1), task.round);
  task.round = (task.round + kBatch - 1) / kBatch * kBatch;
  task.row_bits = std::bit_width(static_cast<unsigned>(task.rows - 1));
  const int base = kTable + task.round * sums;
  const int row_bytes = task.k * static_cast<int>(sizeof(T));
  const int parameters = task.normed ? 2 * row_bytes : 0;
  const bool in_gaps = View::kHasTable && sizeof(T) == 2 && task.rows == 1 && row_bytes <= kPairTableBytes / 2;
  const int staged = base + parameters + (in_gaps ? 0 : task.rows * (row_bytes + 16));
  const dim3 grid(static_cast<unsigned>(blocks));
  const auto launch_kernel = [&]<bool kStaged>(std::bool_constant<kStaged>, int shared) {
    constexpr auto kKernel = linear_decode_kernel<Layout, T, kColumns, kStaged>;
    allow_shared_memory<kKernel>();
    launch_overlapped(launch, kKernel, grid, kThreads, shared, task);
  };
  if (staged <= most_shared_bytes()) {
    task.x_pitch = row_bytes + 16, task.x_gap = in_gaps ? 128 : 0;
    launch_kernel(std::true_type{}, staged);
    return true;
  }
  if (task.normed) return false;
  task.x_pitch = row_bytes, task.x_gap = 0;
  launch_kernel(std::false_type{}, base);
  return true;
}

}  // namespace

template <class T, class Layout>
bool linear_decode(const Launch& launch, const NormView<T>* norm, Tensor x, int first_row, int rows,
                   std::span<const Projection> projections) {
  DecodeTask<Layout, T> task{};
  for (std::size_t i = 0; i < projections.size(); ++i) {
    task.parts[i].weight = TileView<Layout>(std::get<Layout>(projections[i].linear.weight));
    task.parts[i].finish = Finish<T>(projections[i], first_row);
  }
  task.rows = rows;
  task.k = x.cols;
  task.x = x.row<T>(first_row);
  task.normed = norm != nullptr;
  if (norm != nullptr) {
    task.norm = {norm->weight, norm->bias, norm->y + static_cast<std::int64_t>(first_row) * x.cols};
  }
  const auto parts = static_cast<int>(projections.size());
  return rows <= 8 ? launch_decode<Layout, T, 8>(launch, task, parts)
                   : launch_decode<Layout, T, 16>(launch, task, parts);
}

#define NIBBLE_DECODE(T, ...)                                                                      \
  template bool linear_decode<T, __VA_ARGS__>(const Launch&, const NormView<T>*, Tensor, int, int, \
                                              std::span<const Projection>);

}  // namespace nibble
