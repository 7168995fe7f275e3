// Two to sixteen rows of x: weights stream as for one row (linear_decode.cuh), and a decoded tile serves all rows.
//
// Rows of x are too long for one multiprocessor's shared memory, so the blocks of a team divide the columns among them,
// and each has its part of x. Within a block, warps are dealt out to groups: a group takes a row of tiles at a time,
// its warps divide the block's columns. Over the team, that is the division of columns that linear_decode.cuh has, and
// sums are added up in its order, so that a row has the same bits whichever kernel it goes through.
//
//   first weights, table of pairs -> wait for the kernel before -> x to shared memory
//   -> in rounds: a row of tiles; sums of the last round added up and finished; sums sent to the blocks that do so
#pragma once

#include <array>
#include <cstdlib>

#include "kernels/cuda/exchange.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear_parts.cuh"
#include "kernels/cuda/sums.cuh"
#include "kernels/cuda/weight_stream.cuh"

namespace nibble {
namespace {

template <class Layout, class T>
struct FewTask {
  const T* x;
  int rows, k;
  int x_pitch;        ///< bytes of a row of x in shared memory, or of x itself
  int team_shift;     ///< log2 of the blocks of a team
  int sharers_shift;  ///< log2 of how many warps of a team divide the columns of a row of tiles among them
  LinearPart<Layout, T> parts[kMostProjections];
};

/// What a block has. Where x has room in shared memory it is a whole multiprocessor's; where it has not, there is none
/// for more than half of the warps on GPUs with 99 KiB either, and others have two blocks on a multiprocessor.
template <class View, class T, int kRows, bool kStaged, int kDown>
struct FewBlock {
  static constexpr int kWarps = kStaged ? 16 : 8, kStages = kStaged ? 2 : 1;
  static constexpr int kThreads = 32 * kWarps, kResident = kStaged ? 1 : 2;
  /// A table of pairs of 16-bit levels has gaps of 128 bytes, which pieces of sums fill.
  static constexpr bool kInGaps = View::kHasTable && sizeof(T) == 2;
  using SumsExchange = Exchange<kRows, kWarps, kInGaps ? 256 : 128>;
  using Stream = WeightStream<View, kStages, kDown>;
  static constexpr int kSums = kInGaps ? 128 : View::kHasTable ? kPairTableBytes : 0;
  static constexpr int kBarriers =
      (View::kHasTable ? kPairTableBytes : 0) + (kInGaps ? 0 : SumsExchange::kPieces * SumsExchange::kPieceBytes);
  static constexpr int kRings = kBarriers + 128;
  static constexpr int kX = kRings + kWarps * Stream::kBytes;
  static_assert(!kInGaps || SumsExchange::kPieces <= 256);
};

/// Sends some columns of rows of x, [rows, k], to shared memory: a row a warp.
template <int kWarps, class T>
__device__ __forceinline__ void send_columns(const T* x, int rows, int k, int columns, std::uint32_t room, int pitch) {
  constexpr int kValues = 16 / static_cast<int>(sizeof(T));
#pragma unroll 1
  for (int row = static_cast<int>(threadIdx.x) / 32; row < rows; row += kWarps) {
    const T* const from = x + static_cast<std::int64_t>(row) * k;
    const std::uint32_t to = room + static_cast<std::uint32_t>(row * pitch);
#pragma unroll 4
    for (int col = static_cast<int>(threadIdx.x) % 32 * kValues; col < columns; col += 32 * kValues) {
      copy_async<16>(to + static_cast<std::uint32_t>(col) * sizeof(T), from + col);
    }
  }
  commit_copies();
}

/// Rows of x at a tile's columns, kept for the tiles of several rows.
template <int kEights, int kPieces>
struct HeldRows {
  uint4 pieces[kEights][kPieces];

  template <class X>
  __device__ __forceinline__ HeldRows(const X& x, int offset) {
#pragma unroll
    for (int i = 0; i < kEights; ++i) {
#pragma unroll
      for (int j = 0; j < kPieces; ++j) pieces[i][j] = x.load(i, offset + 16 * j);
    }
  }
  __device__ __forceinline__ uint4 load(int eight, int offset) const { return pieces[eight][offset / 16]; }
};

/// Adds the products of a warp's share of kDown rows of tiles, which what is read of x serves.
template <class T, int kRows, class View, int kStages, int kDown, class X>
__device__ __forceinline__ void add_products_down(Sums<T, kRows, View::kSteps> (&sums)[kDown], const View& view,
                                                  WeightStream<View, kStages, kDown>& stream, const X& x, int count,
                                                  int step, std::uint32_t column) {
  using Stream = WeightStream<View, kStages, kDown>;
  for (int col = 0; col < count; col += Stream::kAcross) {
    typename Stream::Batch batch;
    stream.take(batch);
    stream.ask();
    const auto add_column = [&](int i) {
      const HeldRows<(kRows + 7) / 8, View::kSteps / 2> held(x, (col + i) * step);
#pragma unroll
      for (int row = 0; row < kDown; ++row) {
        const auto& tile = batch[row * Stream::kAcross + i];
        StepFactors<T> factors[View::kSteps];
        decode<T>(view, tile, column, factors);
        Sums<T, kRows, View::kSteps> products;
        products.multiply(factors, held, 0);
        sums[row].add(products, view.scales(tile));
      }
    };
    if (col + Stream::kAcross <= count) {
#pragma unroll
      for (int i = 0; i < Stream::kAcross; ++i) add_column(i);
      continue;
    }
#pragma unroll
    for (int i = 0; i < Stream::kAcross - 1; ++i) {
      if (col + i < count) add_column(i);
    }
  }
}

/// kStaged: x comes from shared memory. Otherwise a team is one block.
template <class Layout, class T, int kRows, bool kStaged, int kDown>
__global__ void __launch_bounds__(FewBlock<TileView<Layout>, T, kRows, kStaged, kDown>::kThreads,
                                  FewBlock<TileView<Layout>, T, kRows, kStaged, kDown>::kResident)
    linear_few_kernel(const __grid_constant__ FewTask<Layout, T> task) {
  using View = TileView<Layout>;
  using Block = FewBlock<View, T, kRows, kStaged, kDown>;
  using Stream = typename Block::Stream;
  constexpr int kCols = 16 * View::kSteps, kWarps = Block::kWarps;
  extern __shared__ __align__(256) char shared[];
  const std::uint32_t room = shared_address(shared);
  const int lane = kept(static_cast<int>(threadIdx.x % 32));
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int rank = static_cast<int>(Team::rank());

  // The team's rows of tiles, and this warp's part of them.
  int team = static_cast<int>(blockIdx.x) >> task.team_shift;
  const auto& part = part_of(task.parts, team);
  const View view = part.weight;
  team -= part.first_block;
  const int tile = team * part.block + min(team, part.longer);
  const int tiles = part.block + (team < part.longer ? 1 : 0);
  const int own_shift = task.sharers_shift - task.team_shift;  // of the sharers in this block
  const int groups = kWarps >> own_shift, group = warp >> own_shift;
  const int sharer = (rank << own_shift) + warp - (group << own_shift);
  const int col_tiles = static_cast<int>(static_cast<unsigned>(task.k) / kCols);
  const Share share(col_tiles, task.sharers_shift, sharer);

  Stream stream(view, tile, group * kDown, groups * kDown, tiles, share, room + Block::kRings + warp * Stream::kBytes,
                lane);
#pragma unroll
  for (int i = 0; i < Block::kStages; ++i) stream.ask();
  const typename Block::SumsExchange exchange(room + Block::kSums, room + Block::kBarriers, task.team_shift,
                                              task.sharers_shift, groups);
  exchange.open();
  if constexpr (View::kHasTable) fill_pair_table<T, Block::kThreads>(part.weight.levels, shared);
  let_next_kernel_start();
  constexpr int kStep = kCols * static_cast<int>(sizeof(T));
  const std::uint32_t column = kept(column_of<T>(lane) + room - kReservedShared);
  const int first = Share(col_tiles, task.sharers_shift, rank << own_shift).first;
  const RowsOfX<T, kRows, kStaged> x(
      kStaged ? shared + Block::kX : reinterpret_cast<const char*>(task.x),
      (share.first - first) * kStep + lane % 4 * (4 * View::kSteps) * static_cast<int>(sizeof(T)), lane, task.rows,
      task.x_pitch);

  // A warp finishes the results of a row of tiles and a pair of rows of x, each half of it those of one. What they are
  // finished with is fetched before their sums are there.
  const auto row_of = [&](int round, int group) { return (round / kDown * groups + group) * kDown + round % kDown; };
  const int pairs_shift = exchange.pairs_shift(), pairs = groups << pairs_shift;  // of a round
  struct Result {
    bool there;
    int column;
    std::int64_t place;  ///< in y
  };
  const auto result_of = [&](int round, int pair) {
    const int row = 2 * ((rank << pairs_shift) + (pair & ((1 << pairs_shift) - 1))) + lane / kTileRows;
    const int row_of_tiles = row_of(round, pair >> pairs_shift);
    const int y_column = (tile + row_of_tiles) * kTileRows + lane % kTileRows;
    return Result{pair < pairs && row_of_tiles < tiles && row < task.rows, y_column,
                  static_cast<std::int64_t>(row) * view.n + y_column};
  };
  using Ahead = typename Finish<T>::Ahead;
  const auto fetch = [&](int round, int pair) {
    const Result result = result_of(round, pair);
    return result.there ? part.finish.fetch(result.column, result.place) : Ahead{};
  };
  // Half a warp adds up what the first half of the sharers have, the other half the rest.
  const auto finish = [&](int round, Ahead ahead) {
    const int half = 1 << task.sharers_shift >> 1, upper = lane / kTileRows;
#pragma unroll 1
    for (int pair = warp; pair < pairs; pair += kWarps) {
      float first_sum = 0, second_sum = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (i >= half) break;
        const uint2 sums = load_shared_pair(
            exchange.piece(round, pair >> pairs_shift, upper * half + i, pair & ((1 << pairs_shift) - 1)) +
            static_cast<std::uint32_t>(lane % kTileRows * 8));
        first_sum += __uint_as_float(sums.x), second_sum += __uint_as_float(sums.y);
      }
      const float other = __shfl_xor_sync(0xffffffffU, upper == 0 ? second_sum : first_sum, kTileRows);
      const float sum = (upper == 0 ? first_sum : second_sum) + other;
      const Result result = result_of(round, pair);
      if (result.there) part.finish(sum * view.row_scale(result.column), ahead, result.place);
      ahead = fetch(round, pair + kWarps);
    }
  };

  wait_for_previous_kernel();
  if constexpr (kStaged) {
    const int last = Share(col_tiles, task.sharers_shift, ((rank + 1) << own_shift) - 1).last;
    send_columns<kWarps>(task.x + first * kCols, task.rows, task.k, (last - first) * kCols, room + Block::kX,
                         task.x_pitch);
    wait_for_copies<0>();
  }
  __syncthreads();
  exchange.wait_for_team();

  const int turns = (tiles + groups * kDown - 1) / (groups * kDown);
  Ahead ahead{};
#pragma unroll 1
  for (int turn = 0; turn <= turns; ++turn) {
    const int first_row = (turn * groups + group) * kDown;
    Ahead next[kDown]{};
    Sums<T, kRows, View::kSteps> sums[kDown];
    if (turn < turns) {
#pragma unroll
      for (int i = 0; i < kDown; ++i) next[i] = fetch(turn * kDown + i, warp);
    }
    if (first_row < tiles) {
      if constexpr (kDown == 1) {
        add_products<T>(sums[0], view, stream, x, 0, share.count(), kStep, column);
      } else {
        add_products_down<T>(sums, view, stream, x, share.count(), kStep, column);
      }
    }
#pragma unroll
    for (int i = 0; i < kDown; ++i) {
      const int round = turn * kDown + i;
      if (round > 0 && round <= turns * kDown) {
        exchange.wait(round - 1);
        finish(round - 1, ahead);
      }
      if (first_row + i < tiles) {
        exchange.send(round, group, sharer, sums[i].spread(lane).d, lane);
      } else if (turn < turns) {
        exchange.send_nothing(round, lane);
      }
      ahead = next[i];
    }
  }
}

/// How many teams of 2^team_shift blocks find room at once, where a block takes a whole multiprocessor.
template <auto kKernel>
int resident_teams(const Launch& launch, int threads, int team_shift) {
  static const std::array<int, 4> found = [&] {
    std::array<int, 4> teams = {launch.processors};
    for (unsigned shift = 1; shift < teams.size(); ++shift) {
      cudaLaunchAttribute cluster{};
      cluster.id = cudaLaunchAttributeClusterDimension;
      cluster.val.clusterDim = {1U << shift, 1, 1};
      cudaLaunchConfig_t config{};
      config.gridDim = dim3(1U << shift);
      config.blockDim = dim3(static_cast<unsigned>(threads));
      config.dynamicSmemBytes = static_cast<std::size_t>(most_shared_bytes());
      config.attrs = &cluster;
      config.numAttrs = 1;
      check(cudaOccupancyMaxActiveClusters(&teams[shift], kKernel, &config), "asking for occupancy");
    }
    return teams;
  }();
  return found[static_cast<std::size_t>(team_shift)];
}

/// Most bytes of x that a block has where a larger team can have less.
constexpr int kMostOfX = 64 * 1024 + 16 * 128;

template <class Layout, class T, int kRows>
void launch_few(const Launch& launch, FewTask<Layout, T>& task, int parts) {
  using View = TileView<Layout>;
  constexpr int kMostDown = View::kHasTable && sizeof(T) == 2 && kRows > 8 ? 2 : 1;
  using Staged = FewBlock<View, T, kRows, true, 1>;
  using Unstaged = FewBlock<View, T, kRows, false, 1>;
  constexpr auto kKernel = linear_few_kernel<Layout, T, kRows, true, 1>;
  constexpr auto kDownKernel = linear_few_kernel<Layout, T, kRows, true, kMostDown>;
  constexpr auto kUnstagedKernel = linear_few_kernel<Layout, T, kRows, false, 1>;
  task.sharers_shift = sharers_shift_of<View>(task.k);
  const auto launch_in_teams = [&](auto kernel, int teams, int threads, int shared) {
    const unsigned blocks = static_cast<unsigned>(divide(task.parts, parts, teams).blocks) << task.team_shift;
    launch_in_clusters(launch, kernel, dim3(blocks), 1U << task.team_shift, threads, shared, task);
  };

  // Rows of x in shared memory begin in banks that those before leave free: lanes read runs of 16 bytes, or of 32.
  const auto pitch_of = [&](int team_shift) {
    const int col_tiles = task.k / (16 * View::kSteps), sharers = 1 << task.sharers_shift;
    const int of_block = (col_tiles + sharers - 1) / sharers * (sharers >> team_shift);
    const int bytes = of_block * 16 * View::kSteps * static_cast<int>(sizeof(T));
    return (bytes + 127) / 128 * 128 + (View::kSteps == 4 ? 16 : 64);
  };
  const int most_shift =
      has_clusters<kKernel>() ? std::min(task.sharers_shift, Staged::SumsExchange::kMostTeamShift) : 0;
  int shift = 0;
  const int room = std::min(most_shared_bytes() - Staged::kX, kMostOfX);
  static const int least = std::getenv("FEW_SHIFT") ? std::atoi(std::getenv("FEW_SHIFT")) : 0;  // EXPERIMENT
  static const int down = std::getenv("FEW_DOWN") ? std::atoi(std::getenv("FEW_DOWN")) : 150;   // EXPERIMENT
  while (shift < most_shift && (shift < least || pitch_of(shift) * task.rows > room)) ++shift;
  const int staged = Staged::kX + pitch_of(shift) * task.rows;
  if (staged <= most_shared_bytes()) {
    task.team_shift = shift, task.x_pitch = pitch_of(shift);
    allow_shared_memory<kKernel>();
    allow_shared_memory<kDownKernel>();
    const int teams = resident_teams<kKernel>(launch, Staged::kThreads, shift);
    int tiles = 0;
    for (int i = 0; i < parts; ++i) tiles += task.parts[i].weight.n / kTileRows;
    const int groups = Staged::kWarps >> (task.sharers_shift - shift);
    if (kMostDown > 1 && tiles * 100 >= teams * groups * down) {
      return launch_in_teams(kDownKernel, teams, Staged::kThreads, staged);
    }
    return launch_in_teams(kKernel, teams, Staged::kThreads, staged);
  }
  task.team_shift = 0, task.x_pitch = task.k * static_cast<int>(sizeof(T));
  allow_shared_memory<kUnstagedKernel>();
  const int resident = resident_blocks<kUnstagedKernel>(Unstaged::kThreads, Unstaged::kX);
  launch_in_teams(kUnstagedKernel, launch.processors * resident, Unstaged::kThreads, Unstaged::kX);
}

}  // namespace

template <class T, class Layout>
void linear_few(const Launch& launch, Tensor x, int first_row, int rows, std::span<const Projection> projections) {
  constexpr int kMostRows = sizeof(T) == 2 ? 16 : 8;  // fp32 has no registers for more
  for (int done = 0; done < rows; done += kMostRows) {
    FewTask<Layout, T> task{};
    for (std::size_t i = 0; i < projections.size(); ++i) {
      task.parts[i].weight = TileView<Layout>(std::get<Layout>(projections[i].linear.weight));
      task.parts[i].finish = Finish<T>(projections[i], first_row + done);
    }
    task.rows = std::min(rows - done, kMostRows);
    task.k = x.cols;
    task.x = x.row<T>(first_row + done);
    const auto parts = static_cast<int>(projections.size());
    if constexpr (kMostRows > 8) {
      if (task.rows > 8) {
        launch_few<Layout, T, 16>(launch, task, parts);
        continue;
      }
    }
    launch_few<Layout, T, 8>(launch, task, parts);
  }
}

#define NIBBLE_FEW(T, ...) \
  template void linear_few<T, __VA_ARGS__>(const Launch&, Tensor, int, int, std::span<const Projection>);

}  // namespace nibble
