// Few rows of x: weights stream from memory once, whatever the number of rows.
//
// A block owns some rows of tiles. Its warps divide the columns, always in the same way for a number of columns, and
// what they have is added up in their order, so a row's result does not depend on the rows beside it or on the GPU. A
// warp computes four tiles at once, which hide each other's latencies, while the next eight are on their way to its own
// part of shared memory: copies have a counter of their own, where loads into registers would wait for the newest.
// 16-bit factors go through the tensor cores with the weights as the larger operand, so that 1 to 8 rows of x cost the
// same; sums are fp32, and the absmax of a block multiplies its fp32 sum.
//
// A block takes half a multiprocessor. Where there is little to do there is one, and beside it a block of the next
// kernel makes its table and asks for its first weights meanwhile.
//
//   first weights, table of pairs -> wait for the kernel before -> x (normalised) to shared memory -> tiles -> finish
#pragma once

#include "kernels/cuda/check.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/norm.cuh"
#include "kernels/cuda/sums.cuh"
#include "kernels/cuda/weight_stream.cuh"

namespace nibble {
namespace {

constexpr int kThreads = kNormThreads;
constexpr int kWarps = kNormWarps;
constexpr int kNormTurns = 3;  // wider rows are normalised before

template <class Layout, class T>
struct DecodeTask {
  const T* x;
  NormTask<T> norm;
  bool normed;
  int rows;      ///< of x
  int row_bits;  ///< that a row of x is numbered with
  int k;
  int x_pitch, x_gap;  ///< of x in shared memory (StagedRows), or of x itself
  int round;           ///< rows of tiles whose sums there is room for, a multiple of kWarps / sharers
  int sharers_shift;   ///< log2 of how many warps divide the columns of a row of tiles among them
  bool decodes_ahead;  ///< while it waits for the kernel before: where that one leaves room for this
  struct Part {
    int first_block;    ///< blocks of the parts follow each other
    int block, longer;  ///< rows of tiles a block has; the first `longer` blocks have one more
    Finish<T> finish;
    TileView<Layout> weight;
  };
  Part parts[kMostProjections];
};

/// Batches on their way to a warp. Where they are large or stand beside a table of pairs, one leaves room for 16 rows
/// of 4,096 columns, and fits GPUs that have 99 KiB.
template <class View, int kRows>
constexpr int kStagesOf = kRows > 8 && (View::kHasTable || View::kPieces > 2) ? 1 : 2;

/// kStaged: x comes from shared memory, where one row may be normalised on the way.
template <class Layout, class T, int kRows, bool kStaged>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 2 && kRows <= 8 ? 2 : 1)
    linear_decode_kernel(const __grid_constant__ DecodeTask<Layout, T> task) {
  using View = TileView<Layout>;
  using SumsOf = Sums<T, kRows, View::kSteps>;
  constexpr int kStages = kStagesOf<View, kRows>;
  using Stream = WeightStream<View, kStages>;
  constexpr int kCols = 16 * View::kSteps;
  extern __shared__ __align__(256) char shared[];
  const int rows = kRows == 1 ? 1 : task.rows;
  const int row_bits = kRows == 1 ? 0 : task.row_bits;
  const int sharers = 1 << task.sharers_shift, groups = kWarps >> task.sharers_shift;
  float* const partial = reinterpret_cast<float*>(shared + (View::kHasTable ? kPairTableBytes : 0));
  const int sums_of_warp = kTileRows * rows;
  char* const rings = reinterpret_cast<char*>(partial + task.round * sharers * sums_of_warp);
  char* const behind = rings + kWarps * Stream::kBytes;
  const int lane = kept(static_cast<int>(threadIdx.x % 32));
  const int warp = threadIdx.x / 32;

  // The block's rows of tiles, and this warp's part of them.
  int block = blockIdx.x;
  const auto& part = task.parts[block < task.parts[1].first_block ? 0 : block < task.parts[2].first_block ? 1 : 2];
  const View view = part.weight;
  block -= part.first_block;
  const int tile = block * part.block + min(block, part.longer);
  const int tiles = part.block + (block < part.longer ? 1 : 0);
  const int group = warp >> task.sharers_shift;
  const Share share(static_cast<int>(static_cast<unsigned>(task.k) / kCols), task.sharers_shift, warp & (sharers - 1));

  // Where the table of pairs leaves gaps, x and the parameters of LayerNorm stand in them.
  const StagedRows staged{task.x_gap > 0 ? shared + 128 : behind, task.x_pitch, task.x_gap};
  NormTask<T> norm = task.norm;
  const bool normed = kRows == 1 && task.normed;
  if (normed) send_parameters(norm, task.k, {staged.base + staged.pitch, staged.pitch, staged.gap});
  Stream stream(view, tile, group, groups, tiles, share, shared_address(rings + warp * Stream::kBytes), lane);
#pragma unroll
  for (int i = 0; i < kStages; ++i) stream.ask();
  if constexpr (View::kHasTable) fill_pair_table<T>(part.weight.levels, shared);
  let_next_kernel_start();
  const int step = kCols * static_cast<int>(sizeof(T)) + task.x_gap;
  const std::uint32_t column = kept(column_of<T>(lane));
  const RowsOfX<T, kRows, kStaged> x(kStaged ? staged.base : reinterpret_cast<const char*>(task.x),
                                     share.first * step + lane % 4 * (4 * View::kSteps) * static_cast<int>(sizeof(T)),
                                     lane, rows, task.x_pitch);
  // Results by sixteens: number i is of row of x i % 2^row_bits and of row of tiles i / 2^row_bits of a round. Both
  // halves of a warp have the same. What they are finished with is fetched before their sums are there.
  const auto row_of = [&](int i) { return i & ((1 << row_bits) - 1); };
  const auto column_of_y = [&](int begin, int i) {
    return (tile + begin + (i >> row_bits)) * kTileRows + lane % kTileRows;
  };
  const auto place_of = [&](int begin, int i) {
    return static_cast<std::int64_t>(row_of(i)) * view.n + column_of_y(begin, i);
  };
  const auto fetch = [&](int begin, int i) {
    const bool there = row_of(i) < rows && begin + (i >> row_bits) < tiles;
    return there ? part.finish.fetch(column_of_y(begin, i), place_of(begin, i)) : typename Finish<T>::Ahead{};
  };

  // A warp's first weights are decoded before x is there.
  constexpr bool kDecodesAhead = sizeof(T) == 2 && kRows == 1;
  const bool decodes_ahead = kDecodesAhead && task.decodes_ahead && share.count() >= kBatch && group < tiles;
  StepFactors<T> factors[kBatch][View::kSteps];
  float2 scales[kBatch];
  if constexpr (kDecodesAhead) {
    __syncthreads();
    if (decodes_ahead) {
      typename Stream::Batch batch;
      stream.take(batch);
      stream.ask();
#pragma unroll
      for (int i = 0; i < kBatch; ++i) decode<T>(view, batch[i], column, factors[i]), scales[i] = view.scales(batch[i]);
    }
  }
  if (normed) wait_for_copies<kStages>();  // of parameters
  wait_for_previous_kernel();
  auto ahead = fetch(0, warp);
  if constexpr (kRows == 1) {
    if (normed) {
      normalise_row<kNormTurns>(task.x, task.k, norm, reinterpret_cast<Moments*>(partial),
                                [&](int col, const float(&v)[8]) {
                                  store8(staged.at<T>(0, col), v);
                                  if (blockIdx.x == 0) store8(norm.y + col, v);
                                });
    } else {
      stage_row(task.x, task.k, staged);
    }
  } else if constexpr (kStaged) {
    send_rows(task.x, rows, task.k, staged);
    wait_for_copies<0>();
  }
  __syncthreads();

  SumsOf sums;  // of the row of tiles that the warp is at
  int col = 0;
  if (decodes_ahead) {
    SumsOf products[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) products[i].multiply(factors[i], x, i * step);
#pragma unroll
    for (int i = 0; i < kBatch; ++i) sums.add(products[i], scales[i]);
    col = kBatch;
  }
  for (int begin = 0; begin < tiles; begin += task.round) {
    const int end = min(begin + task.round, tiles);
    float* out = partial + warp * sums_of_warp;
    for (int row = begin + group; row < end; row += groups, out += kWarps * sums_of_warp) {
      for (; col < share.count(); col += kBatch) {
        typename Stream::Batch batch;
        stream.take(batch);
        stream.ask();
        const auto products_of = [&](int i) {
          StepFactors<T> now[View::kSteps];
          decode<T>(view, batch[i], column, now);
          SumsOf products;
          products.multiply(now, x, (col + i) * step);
          return products;
        };
        if (col + kBatch <= share.count()) {
          SumsOf products[kBatch];
#pragma unroll
          for (int i = 0; i < kBatch; ++i) products[i] = products_of(i);
#pragma unroll
          for (int i = 0; i < kBatch; ++i) sums.add(products[i], view.scales(batch[i]));
          continue;
        }
#pragma unroll
        for (int i = 0; i < kBatch - 1; ++i) {
          if (col + i < share.count()) sums.add(products_of(i), view.scales(batch[i]));
        }
      }
      sums.store(out, rows, lane);
      sums.clear();
      col = 0;
    }
    __syncthreads();

    // Half a warp adds up what the first half of the sharers have, the other half the rest.
    const int half = sharers / 2;
    for (int i = warp; i < (end - begin) << row_bits; i += kWarps) {
      if (row_of(i) < rows) {
        const float* const parts =
            partial + ((i >> row_bits) * sharers * rows + row_of(i)) * kTileRows + lane % kTileRows;
        float sum = 0;
#pragma unroll
        for (int w = 0; w < kWarps / 2; ++w) {
          if (w < half) sum += parts[(lane / kTileRows * half + w) * sums_of_warp];
        }
        sum += __shfl_xor_sync(0xffffffffU, sum, kTileRows);
        if (lane < kTileRows) part.finish(sum * view.row_scale(column_of_y(begin, i)), ahead, place_of(begin, i));
      }
      ahead = fetch(begin, i + kWarps);
    }
    if (end == tiles) break;
    ahead = fetch(end, warp);
    __syncthreads();
  }
}

/// Room for sums: enough for the rows of tiles that a block has of a vocabulary, for one row of x.
constexpr int kSumsBytes = 16 * 1024;

/// Gives each part its share of `wanted` blocks, and returns how many there are.
template <class Layout, class T>
int divide(DecodeTask<Layout, T>& task, int parts, int wanted) {
  const auto tiles_of = [&](int part) { return task.parts[part].weight.n / kTileRows; };
  int tiles = 0, blocks = 0;
  for (int i = 0; i < parts; ++i) tiles += tiles_of(i);
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

/// Shared memory of a block that leaves room for another one beside it.
inline int half_of_shared_bytes() { return (most_shared_bytes() - kReservedShared) / 2; }

/// Returns false, having launched nothing, where there is no room in shared memory.
template <class Layout, class T, int kRows>
bool launch_decode(const Launch& launch, DecodeTask<Layout, T>& task, int parts) {
  using View = TileView<Layout>;
  constexpr int kFixed =
      (View::kHasTable ? kPairTableBytes : 0) + kWarps * WeightStream<View, kStagesOf<View, kRows>>::kBytes;
  // Batches of four come out even in shares of eighths or quarters, for the widths of models.
  task.sharers_shift = task.k / (16 * View::kSteps) % (kWarps * kBatch) == 0 ? 3 : 2;
  task.row_bits = std::bit_width(static_cast<unsigned>(task.rows - 1));
  const int groups = kWarps >> task.sharers_shift;
  const int sums_of_group = kWarps * kTileRows * task.rows * 4;
  const int row_bytes = task.k * static_cast<int>(sizeof(T));
  const int staged_rows = task.rows + (task.normed ? 2 : 0);
  const bool in_gaps =
      View::kHasTable && sizeof(T) == 2 && kRows == 1 && staged_rows * row_bytes <= kPairTableBytes / 2;
  std::int64_t batches = 0;
  for (int i = 0; i < parts; ++i) {
    batches += std::int64_t{task.parts[i].weight.n / kTileRows} * task.k / (16 * View::kSteps * kWarps * kBatch);
  }
  const auto launch_kernel = [&]<bool kStaged>(std::bool_constant<kStaged>, int pitch, int gap, int staged) {
    const int beside = kFixed + staged;
    const bool is_half = half_of_shared_bytes() - beside >= sums_of_group;
    const int fits = is_half ? half_of_shared_bytes() : most_shared_bytes();
    if (fits - beside < sums_of_group) return false;
    // One block on each multiprocessor, so that another kernel's has room beside it, or two where a warp has more than
    // one batch.
    const bool two = is_half && kRows <= 8 && batches > launch.processors;
    const dim3 grid(static_cast<unsigned>(divide(task, parts, two ? 2 * launch.processors : launch.processors)));
    task.decodes_ahead = !two;
    task.x_pitch = pitch, task.x_gap = gap;
    const int most = std::min((fits - beside) / sums_of_group, std::max(kSumsBytes / sums_of_group, 1));
    task.round = std::min(most, (task.round + groups - 1) / groups) * groups;
    constexpr auto kKernel = linear_decode_kernel<Layout, T, kRows, kStaged>;
    allow_shared_memory<kKernel>();
    launch_overlapped(launch, kKernel, grid, kThreads, beside + task.round / groups * sums_of_group, task);
    return true;
  };
  // Rows of x in shared memory begin in different banks.
  const bool launched = in_gaps ? launch_kernel(std::true_type{}, row_bytes * 2, 128, 0)
                                : launch_kernel(std::true_type{}, row_bytes + 16, 0, staged_rows * (row_bytes + 16));
  if constexpr (kRows == 1) {
    return launched;
  } else {
    return launched || launch_kernel(std::false_type{}, row_bytes, 0, 0);
  }
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
    task.norm = {norm->weight, norm->bias, norm->y + static_cast<std::int64_t>(first_row) * x.cols, 0};
  }
  const auto parts = static_cast<int>(projections.size());
  if (norm != nullptr && x.cols > kNormTurns * kNormStride) return false;
  if (rows == 1 && launch_decode<Layout, T, 1>(launch, task, parts)) return true;
  if (norm != nullptr) return false;
  return (rows <= 8 && launch_decode<Layout, T, 8>(launch, task, parts)) ||
         launch_decode<Layout, T, 16>(launch, task, parts);
}

#define NIBBLE_DECODE(T, ...)                                                                      \
  template bool linear_decode<T, __VA_ARGS__>(const Launch&, const NormView<T>*, Tensor, int, int, \
                                              std::span<const Projection>);

}  // namespace nibble
