// One row of x: weights stream from memory through shared memory to the tensor cores. More rows: linear_few.cuh.
//
// A block owns some rows of tiles. Its warps divide the columns, always in the same way for a number of columns, and
// what they have is added up in their order, so a row's result does not depend on the rows beside it or on the GPU. A
// warp computes four tiles at once, which hide each other's latencies, while the next eight or twelve are on their way
// to its own part of shared memory: copies have a counter of their own, where loads into registers would wait for the
// newest. 16-bit factors go through the tensor cores with the weights as the larger operand; sums are fp32, and the
// absmax of a block multiplies its fp32 sum.
//
// A block takes half a multiprocessor. Where there is not much to do there is one, and beside it a block of the next
// kernel makes its table and decodes its first weights meanwhile.
//
//   first weights, table of pairs -> wait for the kernel before -> x (normalised) to shared memory -> tiles -> finish
#pragma once

#include "kernels/cuda/check.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear_parts.cuh"
#include "kernels/cuda/norm.cuh"
#include "kernels/cuda/one_row.cuh"

namespace nibble {
namespace {

constexpr int kThreads = kNormThreads;
constexpr int kWarps = kNormWarps;

/// Batches on their way to a warp: two, or three behind another kernel where there is room.
constexpr int kFewStages = 2, kMoreStages = 3;

/// How a kernel stands to the one before.
enum class Place {
  kBeside,  ///< one block on each multiprocessor, beside that kernel's: first weights are decoded while it waits
  kBehind,  ///< two, which begin where that kernel's end
};

/// Rows of up to so many kNormStride are normalised on their way; wider ones before. Beside another kernel there are
/// blocks of small weights only, whose rows are short: registers are full of factors.
constexpr int norm_turns(Place place) { return place == Place::kBeside ? 1 : 3; }

template <class Layout, class T>
struct DecodeTask {
  const T* x;
  NormTask<T> norm;
  bool normed;
  int k;
  int x_gap;          ///< of x in shared memory, bytes behind each 64 columns
  int round;          ///< rows of tiles whose sums there is room for, a multiple of kWarps / sharers
  int sharers_shift;  ///< log2 of how many warps divide the columns of a row of tiles among them
  LinearPart<Layout, T> parts[kMostProjections];
};

/// x comes from shared memory, and may be normalised on its way there.
template <class Layout, class T, Place kPlace, int kStages>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 2 ? 2 : 1)
    linear_decode_kernel(const __grid_constant__ DecodeTask<Layout, T> task) {
  using View = TileView<Layout>;
  using Row = OneRow<T, View>;
  using Stream = WeightStream<View, kStages>;
  constexpr int kCols = 16 * View::kSteps;
  constexpr int kRowBytes = kTileRows * static_cast<int>(sizeof(float));  // of a row of tiles' sums
  extern __shared__ __align__(256) char shared[];
  const int sharers = 1 << task.sharers_shift, groups = kWarps >> task.sharers_shift;
  float* const partial = reinterpret_cast<float*>(shared + (View::kHasTable ? kPairTableBytes : 0));
  char* const rings = reinterpret_cast<char*>(partial + task.round * sharers * kTileRows);
  char* const behind = rings + kWarps * Stream::kBytes;
  const int lane = pinned(static_cast<int>(threadIdx.x % 32));
  const int warp = pinned(static_cast<int>(threadIdx.x / 32));

  // The block's rows of tiles, and this warp's part of them. ptxas would find the weight's number again behind x.
  const auto& part = task.parts[uniform(part_number(task.parts, static_cast<int>(blockIdx.x)))];
  const View view = part.weight;
  const int block = static_cast<int>(blockIdx.x) - part.first_block;
  const int tile = kept(block * part.block + min(block, part.longer));
  const int tiles = part.block + (block < part.longer ? 1 : 0);
  const int group = warp >> task.sharers_shift;
  const Share share(static_cast<int>(static_cast<unsigned>(task.k) / kCols), task.sharers_shift, warp & (sharers - 1));

  // Where the table of pairs leaves gaps, x stands in them.
  char* const x = task.x_gap > 0 ? shared + 128 : behind;
  const auto place_of_x = [&](int col) {
    const int place = Row::place_of(col);
    return reinterpret_cast<T*>(x + place * static_cast<int>(sizeof(T)) + place / 64 * task.x_gap);
  };
  NormParameters<norm_turns(kPlace), T> parameters;
  if (task.normed) parameters.fetch(task.norm, task.k);
  Stream stream(view, tile, group, groups, tiles, share, shared_address(rings + warp * Stream::kBytes), lane);
  // Behind another kernel, what is asked for in a burst would hold up x: a third batch, and where a table lets blocks
  // begin late a second one.
  constexpr int kAskedFirst = kPlace == Place::kBeside ? kStages : View::kHasTable ? 1 : kFewStages;
#pragma unroll
  for (int i = 0; i < kAskedFirst; ++i) stream.ask();
  if constexpr (View::kHasTable) fill_pair_table<T>(part.weight.levels, shared);
  let_next_kernel_start();
  const int step = kCols * static_cast<int>(sizeof(T)) + task.x_gap;
  const std::uint32_t column = kept(column_of<T>(lane));
  Row sums(x, share.first, step, lane);  // of the row of tiles that the warp is at
  // Results of a row of tiles: both halves of a warp have the same. What they are finished with is fetched before their
  // sums are there, and what no kernel writes before x is.
  const auto column_of_y = [&](int row) { return (tile + row) * kTileRows + lane % kTileRows; };
  struct {
    typename Finish<T>::Ahead rest;
    decltype(view.row_scale(0)) scale;
  } with;
  const auto fetch_parameters = [&](int row) {
    if (row >= tiles) return;
    with.rest.bias = part.finish.bias_of(column_of_y(row));
    with.scale = view.row_scale(column_of_y(row));
  };
  const auto fetch_residual = [&](int row) {
    if (row < tiles) with.rest.residual = part.finish.residual_of(column_of_y(row));
  };
  fetch_parameters(warp);

  // Where the warp leaves its sums, and where it finds those that it adds up: half of it what the first half of the
  // sharers have, the other half the rest.
  const int half = sharers / 2;
  const int own_sums = pinned(static_cast<int>(shared_address(partial + warp * kTileRows + lane / 4)));
  const int first_sums = pinned(
      static_cast<int>(shared_address(partial + (warp * 2 + lane / kTileRows) * half * kTileRows + lane % kTileRows)));

  // A warp's first weights are decoded before x is there.
  constexpr int kBatchesAhead = kPlace == Place::kBeside ? Row::kBatchesAhead : 0;
  typename Row::Ahead decoded[std::max(kBatchesAhead, 1)];
  int batches_ahead = 0;
  if constexpr (kBatchesAhead > 0) {
    __syncthreads();
    // Whole ones, of one row of tiles or of several.
    const int rows = (tiles - group + groups - 1) / groups, of_row = share.count() / kBatch;
    batches_ahead = kept(min(share.count() % kBatch == 0 ? rows * of_row : rows > 0 ? of_row : 0, kBatchesAhead));
#pragma unroll
    for (int i = 0; i < kBatchesAhead; ++i) {
      if (i >= batches_ahead) break;
      typename Stream::Batch batch;
      stream.take(batch);
      stream.ask();
      sums.decode_ahead(view, batch, column, decoded[i]);
    }
  }
  const auto ask_for_the_rest = [&] {
#pragma unroll
    for (int i = kAskedFirst; i < kStages; ++i) stream.ask();
  };
  wait_for_previous_kernel();
  if (task.normed) {
    normalise_row<norm_turns(kPlace)>(task.x, task.k, parameters, reinterpret_cast<Moments*>(partial), ask_for_the_rest,
                                      [&](int col, const float(&v)[8]) {
                                        store8(place_of_x(col), v);
                                        if (blockIdx.x == 0) store8(task.norm.y + col, v);
                                      });
    fetch_residual(warp);
  } else {
    stage_row(task.x, task.k, place_of_x, [&] { fetch_residual(warp); });
    ask_for_the_rest();  // asked for earlier, it took longer: NOTES, 2026-11-30
  }
  __syncthreads();

  int col = 0, col_of_next = 0;  // from which on products of the row of tiles, and of the next one, are to be added
  if constexpr (kBatchesAhead > 0) {
    if (batches_ahead > 0) sums.add(decoded[0], 0), col = kBatch;
  }
  if constexpr (kBatchesAhead > 1) {
    if (batches_ahead > 1) {
      const bool is_of_next = share.count() == kBatch;
      if (is_of_next) sums.change_rows();
      sums.add(decoded[1], is_of_next ? 0 : kBatch);
      (is_of_next ? col_of_next : col) += kBatch;
      if (is_of_next) sums.change_rows();
    }
  }
  for (int begin = 0;; begin += task.round) {
    const int end = min(begin + task.round, tiles);
    std::uint32_t to = own_sums;
    for (int row = begin + group; row < end; row += groups, to += kWarps * kRowBytes) {
      sums.add(view, stream, col, share.count(), column);
      const float2 whole = sums.take();
      if (lane % 4 == 0) store_shared_word(to, whole.x), store_shared_word(to + kRowBytes / 2, whole.y);
      col = col_of_next, col_of_next = 0;
    }
    __syncthreads();

    std::uint32_t from = first_sums;
    for (int row = begin + warp; row < end; row += kWarps, from += kWarps * sharers * kRowBytes) {
      const auto of = [&](int sharer) { return __uint_as_float(load_shared_word(from + sharer * kRowBytes)); };
      float sum = of(0) + of(1);
      if (half > 2) sum += of(2) + of(3);
      sum += __shfl_xor_sync(0xffffffffU, sum, kTileRows);
      const int column_of_it = column_of_y(row);
      if (lane < kTileRows) part.finish(sum * with.scale, with.rest, column_of_it);
      fetch_parameters(row + kWarps);
      fetch_residual(row + kWarps);
    }
    if (end == tiles) break;
    fetch_parameters(end + warp);
    fetch_residual(end + warp);
    __syncthreads();
  }
}

/// Room for sums: enough for the rows of tiles that a block has of a vocabulary.
constexpr int kSumsBytes = 16 * 1024;

/// Shared memory of a block so large that no more than `blocks` of them find room.
inline int least_shared_bytes(int blocks) {
  return (most_shared_bytes() + kReservedShared) / (blocks + 1) - kReservedShared + 1;
}

/// Returns false, having launched nothing, where there is no room in shared memory.
template <class Layout, class T>
bool launch_decode(const Launch& launch, DecodeTask<Layout, T>& task, int parts) {
  using View = TileView<Layout>;
  constexpr int kTable = View::kHasTable ? kPairTableBytes : 0;
  constexpr int kStageOfAll = kWarps * WeightStream<View, 1>::kStageBytes;
  task.sharers_shift = sharers_shift_of<View>(task.k);
  const int groups = kWarps >> task.sharers_shift;
  constexpr int kSumsOfGroup = kWarps * kTileRows * 4;
  const int row_bytes = task.k * static_cast<int>(sizeof(T));
  const bool in_gaps = View::kHasTable && sizeof(T) == 2 && row_bytes <= kPairTableBytes / 2;
  std::int64_t batches = 0;
  for (int i = 0; i < parts; ++i) {
    batches += std::int64_t{task.parts[i].weight.n / kTileRows} * task.k / (16 * View::kSteps * kWarps * kBatch);
  }
  task.x_gap = in_gaps ? 128 : 0;
  const auto beside = [&](int stages) { return kTable + stages * kStageOfAll + (in_gaps ? 0 : row_bytes); };
  const int half = least_shared_bytes(1) - 1;  // leaves room for another block beside it
  const auto is_half = [&](int stages) { return half - beside(stages) >= kSumsOfGroup; };
  const int fits = is_half(kFewStages) ? half : most_shared_bytes();
  if (fits - beside(kFewStages) < kSumsOfGroup) return false;
  // One block on each multiprocessor, so that another kernel's has room beside it, or two where there is more to do,
  // and then no third, as others would have one. One that has a table takes more than half where the kernel before may
  // leave some multiprocessors with more room than others: two on one would take twice the time. Weights with fewer
  // rows than columns follow such a block, and stand beside it.
  const bool one = !is_half(kFewStages) || batches <= 8 * launch.processors;
  const bool alone = View::kHasTable && batches > launch.processors && task.parts[0].weight.n >= task.k;
  const int least = !one ? least_shared_bytes(2) : alone ? least_shared_bytes(1) : 0;
  const auto launch_kernel = [&]<Place kPlace, int kStages>() {
    const Division division = divide(task.parts, parts, one ? launch.processors : 2 * launch.processors);
    const int most = std::min(fits - beside(kStages), kSumsBytes) / kSumsOfGroup;
    task.round = std::min(most, (division.most_tiles + groups - 1) / groups) * groups;
    constexpr auto kKernel = linear_decode_kernel<Layout, T, kPlace, kStages>;
    allow_shared_memory<kKernel>();
    launch_overlapped(launch, kKernel, dim3(static_cast<unsigned>(division.blocks)), kThreads,
                      std::max(beside(kStages) + task.round / groups * kSumsOfGroup, least), task);
  };
  if (one && (!task.normed || task.k <= norm_turns(Place::kBeside) * kNormStride)) {
    launch_kernel.template operator()<Place::kBeside, kFewStages>();
    return true;
  }
  if constexpr (!View::kHasTable) {
    if (is_half(kMoreStages)) {
      launch_kernel.template operator()<Place::kBehind, kMoreStages>();
      return true;
    }
  }
  launch_kernel.template operator()<Place::kBehind, kFewStages>();
  return true;
}

}  // namespace

template <class T, class Layout>
bool linear_decode(const Launch& launch, const NormView<T>* norm, Tensor x, int row,
                   std::span<const Projection> projections) {
  if (norm != nullptr && (x.cols % kNormColumns != 0 || x.cols > norm_turns(Place::kBehind) * kNormStride))
    return false;
  DecodeTask<Layout, T> task{};
  for (std::size_t i = 0; i < projections.size(); ++i) {
    task.parts[i].weight = TileView<Layout>(std::get<Layout>(projections[i].linear.weight));
    task.parts[i].finish = Finish<T>(projections[i], row);
  }
  task.k = x.cols;
  task.x = x.row<T>(row);
  task.normed = norm != nullptr;
  if (norm != nullptr) {
    task.norm = {norm->weight, norm->bias, norm->y + static_cast<std::int64_t>(row) * x.cols};
  }
  return launch_decode(launch, task, static_cast<int>(projections.size()));
}

#define NIBBLE_DECODE(T, ...)                                                                 \
  template bool linear_decode<T, __VA_ARGS__>(const Launch&, const NormView<T>*, Tensor, int, \
                                              std::span<const Projection>);

}  // namespace nibble
