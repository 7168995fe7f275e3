// Two to sixteen rows of x: weights stream as for one row (linear_decode.cuh), and a decoded tile serves all rows.
//
// Rows of x are too long for one multiprocessor's shared memory, so the blocks of a team divide the columns among them,
// and each has its part of x. Within a block, warps are dealt out to groups: a group takes a row of tiles at a time, or
// two that share what is read of x, and its warps divide the block's columns. Over the team, that is the division of
// columns that linear_decode.cuh has, and sums are added up in its order, so that a row has the same bits whichever
// kernel it goes through.
//
//   first weights, table of pairs -> wait for the kernel before -> x to shared memory
//   -> in rounds: a row of tiles; sums of the last round added up and finished; sums sent to the blocks that do so
#pragma once

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
template <class View, class T, int kRows, bool kStaged, int kRowsDown>
struct FewBlock {
  static constexpr int kWarps = kStaged ? 16 : 8, kStages = kStaged ? 2 : 1, kDown = kRowsDown;
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

/// Where a warp sits: what rows of tiles its team has, and which part of them is its own.
template <class Layout, class T, int kWarps>
struct FewSeat {
  int lane, warp, rank;
  const LinearPart<Layout, T>& part;
  int tile, tiles;           ///< the team's rows of tiles
  int groups, group;         ///< of warps of a block, and the warp's
  int first_sharer, sharer;  ///< the block's first, and the warp's own number

  __device__ __forceinline__ FewSeat(const FewTask<Layout, T>& task, int block, int thread)
      : lane(thread % 32),
        warp(thread / 32),
        rank(block & ((1 << task.team_shift) - 1)),
        part(part_of(task.parts, block >> task.team_shift)) {
    const int team = (block >> task.team_shift) - part.first_block;
    tile = team * part.block + min(team, part.longer);
    tiles = part.block + (team < part.longer ? 1 : 0);
    const int own_shift = task.sharers_shift - task.team_shift;  // of the sharers in this block
    groups = kWarps >> own_shift, group = warp >> own_shift;
    first_sharer = rank << own_shift, sharer = first_sharer + warp - (group << own_shift);
  }
};

/// What comes behind a row of tiles: the sums of the round before are finished, those of this round sent.
template <class Layout, class T, class Block>
class FewFinish {
 public:
  using Ahead = typename Finish<T>::Ahead;

  __device__ __forceinline__ FewFinish(const FewTask<Layout, T>& task, std::uint32_t room, int block, int thread)
      : task_(task),
        seat_(task, block, thread),
        exchange_(room + Block::kSums, room + Block::kBarriers, task.team_shift, task.sharers_shift, seat_.groups) {}

  __device__ __forceinline__ const typename Block::SumsExchange& exchange() const { return exchange_; }

  /// What a warp's first results of a round are finished with.
  __device__ __forceinline__ Ahead fetch(int round) const { return fetch(round, seat_.warp); }

  /// A warp finishes the results of a row of tiles and a pair of rows of x, each half of it those of one. Half a warp
  /// adds up what the first half of the sharers have, the other half the rest.
  __device__ __forceinline__ void operator()(int round, Ahead ahead) const {
    const int half = 1 << task_.sharers_shift >> 1, upper = seat_.lane / kTileRows, shift = exchange_.pairs_shift();
    exchange_.wait(round);
#pragma unroll 1
    for (int pair = seat_.warp; pair < seat_.groups << shift; pair += Block::kWarps) {
      float first = 0, second = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (i >= half) break;
        const uint2 sums =
            load_shared_pair(exchange_.piece(round, pair >> shift, upper * half + i, pair & ((1 << shift) - 1)) +
                             static_cast<std::uint32_t>(seat_.lane % kTileRows * 8));
        first += __uint_as_float(sums.x), second += __uint_as_float(sums.y);
      }
      const float other = __shfl_xor_sync(0xffffffffU, upper == 0 ? second : first, kTileRows);
      const float sum = (upper == 0 ? first : second) + other;
      const Result result = result_of(round, pair);
      if (result.there) {
        seat_.part.finish(sum * seat_.part.weight.row_scale(result.column), ahead, result.place);
      }
      if (pair + Block::kWarps < seat_.groups << shift) ahead = fetch(round, pair + Block::kWarps);
    }
  }

  template <class Sums>
  __device__ __forceinline__ void send(int round, const Sums& sums) const {
    if (row_of(round, seat_.group) < seat_.tiles) {
      exchange_.send(round, seat_.group, seat_.sharer, sums.spread(seat_.lane).d, seat_.lane);
    } else {
      exchange_.send_nothing(round, seat_.lane);
    }
  }

 private:
  struct Result {
    bool there;
    int column;
    std::int64_t place;  ///< in y
  };
  __device__ __forceinline__ int row_of(int round, int group) const {
    return (round / Block::kDown * seat_.groups + group) * Block::kDown + round % Block::kDown;
  }
  __device__ __forceinline__ Result result_of(int round, int pair) const {
    const int shift = exchange_.pairs_shift(), row_of_tiles = row_of(round, pair >> shift);
    const int row = 2 * ((seat_.rank << shift) + (pair & ((1 << shift) - 1))) + seat_.lane / kTileRows;
    const int column = (seat_.tile + row_of_tiles) * kTileRows + seat_.lane % kTileRows;
    return {pair < seat_.groups << shift && row_of_tiles < seat_.tiles && row < task_.rows, column,
            static_cast<std::int64_t>(row) * seat_.part.weight.n + column};
  }
  __device__ __forceinline__ Ahead fetch(int round, int pair) const {
    const Result result = result_of(round, pair);
    return result.there ? seat_.part.finish.fetch(result.column, result.place) : Ahead{};
  }

  const FewTask<Layout, T>& task_;
  FewSeat<Layout, T, Block::kWarps> seat_;
  typename Block::SumsExchange exchange_;
};

/// kStaged: x comes from shared memory. Otherwise a team is one block.
template <class Layout, class T, int kRows, bool kStaged, int kDown>
__global__ void __launch_bounds__(FewBlock<TileView<Layout>, T, kRows, kStaged, kDown>::kThreads,
                                  FewBlock<TileView<Layout>, T, kRows, kStaged, kDown>::kResident)
    linear_few_kernel(const __grid_constant__ FewTask<Layout, T> task) {
  using View = TileView<Layout>;
  using Block = FewBlock<View, T, kRows, kStaged, kDown>;
  using Stream = typename Block::Stream;
  constexpr int kCols = 16 * View::kSteps;
  extern __shared__ __align__(256) char shared[];
  const std::uint32_t room = shared_address(shared);
  // Where registers are short over a row of tiles, nothing of this is kept in them.
  constexpr bool kIsShort = kRows > 8 && View::kNoteBytes > 0;
  const auto after_row = [&] {
    const int block = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
    return FewFinish<Layout, T, Block>(task, room, kIsShort ? kept(block) : block, kIsShort ? kept(thread) : thread);
  };
  const FewSeat<Layout, T, Block::kWarps> seat(task, static_cast<int>(blockIdx.x), static_cast<int>(threadIdx.x));
  const int lane = kept(seat.lane);
  const View view = seat.part.weight;
  const int col_tiles = static_cast<int>(static_cast<unsigned>(task.k) / kCols);
  const Share share(col_tiles, task.sharers_shift, seat.sharer);

  Stream stream(view, seat.tile, seat.group * kDown, seat.groups * kDown, seat.tiles, share,
                room + Block::kRings + seat.warp * Stream::kBytes, lane);
#pragma unroll
  for (int i = 0; i < Block::kStages; ++i) stream.ask();
  after_row().exchange().open();
  if constexpr (View::kHasTable) fill_pair_table<T, Block::kThreads>(seat.part.weight.levels, shared);
  let_next_kernel_start();
  constexpr int kStep = kCols * static_cast<int>(sizeof(T));
  const std::uint32_t column = kept(column_of<T>(lane) + room - kReservedShared);
  const int first = Share(col_tiles, task.sharers_shift, seat.first_sharer).first;
  const RowsOfX<T, kRows, kStaged> x(
      kStaged ? shared + Block::kX : reinterpret_cast<const char*>(task.x),
      (share.first - first) * kStep + lane % 4 * (4 * View::kSteps) * static_cast<int>(sizeof(T)), lane, task.rows,
      task.x_pitch);

  wait_for_previous_kernel();
  if constexpr (kStaged) {
    const int sharers = 1 << (task.sharers_shift - task.team_shift);
    const int last = Share(col_tiles, task.sharers_shift, seat.first_sharer + sharers - 1).last;
    send_columns<Block::kWarps>(task.x + first * kCols, task.rows, task.k, (last - first) * kCols, room + Block::kX,
                                task.x_pitch);
    wait_for_copies<0>();
  }
  __syncthreads();
  after_row().exchange().wait_for_team();

  const int turns = (seat.tiles + seat.groups * kDown - 1) / (seat.groups * kDown);
  typename Finish<T>::Ahead ahead{};
  int row = seat.group * kDown;
#pragma unroll 1
  for (int turn = 0; turn < turns; ++turn) {
    Sums<T, kRows, View::kSteps> sums[kDown];
    if (row < seat.tiles) {
      add_products<T>(sums, view, stream, x, 0, share.count(), kStep, column);
    }
    const auto after = after_row();
#pragma unroll
    for (int i = 0; i < kDown; ++i) {
      const int round = turn * kDown + i;
      if (round > 0) after(round - 1, ahead);
      ahead = after.fetch(round);
      after.send(round, sums[i]);
    }
    row += seat.groups * kDown;
  }
  after_row()(turns * kDown - 1, ahead);
}

/// How many teams of 2^team_shift blocks find room at once, where a block takes a whole multiprocessor.
template <auto kKernel>
int resident_teams(const Launch& launch, int threads, int team_shift) {
  return team_shift == 0 ? launch.processors
                         : resident_clusters<kKernel>(1U << team_shift, threads, most_shared_bytes());
}

/// Most bytes of x that a block has where a larger team can have less.
constexpr int kMostOfX = 64 * 1024 + 16 * 128;
/// How long two rows of tiles at once take for each that one takes, as measured for nf4 (README, 2026-11-28).
constexpr int kTwoRows = 9, kOneRow = 5;

template <class Layout, class T, int kRows>
void launch_few(const Launch& launch, FewTask<Layout, T>& task, int parts) {
  using View = TileView<Layout>;
  using Staged = FewBlock<View, T, kRows, true, 1>;
  using Unstaged = FewBlock<View, T, kRows, false, 1>;
  constexpr int kMostDown = View::kHasTable && sizeof(T) == 2 ? 2 : 1;
  constexpr auto kKernel = linear_few_kernel<Layout, T, kRows, true, 1>;
  constexpr auto kDownKernel = linear_few_kernel<Layout, T, kRows, true, kMostDown>;
  constexpr auto kUnstagedKernel = linear_few_kernel<Layout, T, kRows, false, 1>;
  task.sharers_shift = sharers_shift_of<View>(task.k);
  const auto launch_in_teams = [&](auto kernel, int teams, int threads, int shared) {
    launch_in_clusters(launch, kernel, dim3(static_cast<unsigned>(teams) << task.team_shift), 1U << task.team_shift,
                       threads, shared, task);
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
  int shift = std::min(1, most_shift);  // x comes in half the time, and rows of tiles are dealt out more evenly
  const int room = std::min(most_shared_bytes() - Staged::kX, kMostOfX);
  while (shift < most_shift && pitch_of(shift) * task.rows > room) ++shift;
  const int staged = Staged::kX + pitch_of(shift) * task.rows;
  if (staged <= most_shared_bytes()) {
    task.team_shift = shift, task.x_pitch = pitch_of(shift);
    allow_shared_memory<kKernel>();
    allow_shared_memory<kDownKernel>();
    const Division division = divide(task.parts, parts, resident_teams<kKernel>(launch, Staged::kThreads, shift));
    const int groups = Staged::kWarps >> (task.sharers_shift - shift);
    const auto turns = [&](int down) { return (division.most_tiles + groups * down - 1) / (groups * down); };
    if (turns(kMostDown) * kTwoRows < turns(1) * kOneRow) {
      launch_in_teams(kDownKernel, division.blocks, Staged::kThreads, staged);
    } else {
      launch_in_teams(kKernel, division.blocks, Staged::kThreads, staged);
    }
    return;
  }
  task.team_shift = 0, task.x_pitch = task.k * static_cast<int>(sizeof(T));
  allow_shared_memory<kUnstagedKernel>();
  const int resident = resident_blocks<kUnstagedKernel>(Unstaged::kThreads, Unstaged::kX);
  const Division division = divide(task.parts, parts, launch.processors * resident);
  launch_in_teams(kUnstagedKernel, division.blocks, Unstaged::kThreads, Unstaged::kX);
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
