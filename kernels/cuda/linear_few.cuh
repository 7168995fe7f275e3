// Two to sixteen rows of x: weights stream as for one row (linear_decode.cuh), and a decoded tile serves all rows.
//
// Rows of x are too long for one multiprocessor's shared memory, so the blocks of a team divide the columns among them,
// and each has its part of x. Over the team, the columns of a row of tiles are divided into the shares that
// linear_decode.cuh gives its warps, the sharers, and sums are added up in its order, so that a row has the same bits
// whichever kernel it goes through. Which warps do it is another matter: within a block, warps are dealt out to groups;
// a group takes a row of tiles at a time, or two that share what is read of x, and each of its warps one or more of the
// block's sharers, one behind the other. So a block can have as few turns as there is work for its warps.
//
//   first weights -> wait for the kernel before -> x (normalised) to shared memory, table of pairs meanwhile
//   -> in turns: rows of tiles; sums to the blocks that add them up and finish them
#pragma once

#include "kernels/cuda/few_columns.cuh"
#include "kernels/cuda/few_finish.cuh"
#include "kernels/cuda/few_room.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/sums.cuh"

namespace nibble {
namespace {

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
  // Registers are short over a row of tiles: nothing of this is kept in them.
  const auto after_row = [&] {
    return FewFinish<Layout, T, Block>(task, room, kept(static_cast<int>(blockIdx.x)),
                                       kept(static_cast<int>(threadIdx.x)));
  };
  const FewSeat<Layout, T, Block::kWarps> seat(task, static_cast<int>(blockIdx.x), static_cast<int>(threadIdx.x));
  const int lane = kept(seat.lane);
  const View view = seat.part.weight;
  const int col_tiles = static_cast<int>(static_cast<unsigned>(task.k) / kCols);
  const Share share(col_tiles, task.sharers_shift, seat.sharer, 1 << task.own_shift);

  const FewColumns<Layout, T, Block> columns(task, seat, shared);
  const bool normed = kStaged && task.normed;
  Inbox& inbox = *reinterpret_cast<Inbox*>(shared + Block::kInbox);
  if (threadIdx.x == 0) {
    if (normed) {
      inbox.open();
      inbox.announce(
          static_cast<std::uint32_t>(task.rows * (task.k / kNormColumns) * static_cast<int>(sizeof(Moments))));
    } else if constexpr (kStaged) {
      columns.open();
    }
  }
  after_row().exchange().open();
  Stream stream(view, seat.tile, seat.group * kDown, seat.groups * kDown, seat.tiles, share,
                room + Block::kRings + seat.warp * Stream::kBytes, lane);
  // What is asked for in a burst would hold up x.
  stream.ask();
  const auto while_x_comes = [&] {
#pragma unroll
    for (int i = 1; i < Block::kStages; ++i) stream.ask();
    if constexpr (View::kHasTable) fill_pair_table<T, Block::kThreads>(seat.part.weight.levels, shared);
  };
  let_next_kernel_start();
  constexpr int kStep = kCols * static_cast<int>(sizeof(T));
  const std::uint32_t column = kept(column_of<T>(lane) + room - kReservedShared);
  const Share all = columns.all();
  const RowsOfX<T, kRows, kStaged> x(
      kStaged ? shared + Block::kX : reinterpret_cast<const char*>(task.x),
      (share.first - all.first) * kStep + lane % 4 * (4 * View::kSteps) * static_cast<int>(sizeof(T)), lane, task.rows,
      task.x_pitch);
  TeamNorm<T, kWarps, Block::kMostNorm> norm(task.rows, task.k, all.first * kCols, all.count() * kCols, task.norm);
  if (normed) norm.fetch();

  wait_for_previous_kernel();
  if (normed) {
    norm.load(task.x);
    after_row().exchange().wait_for_team();  // before which the compiler would rather ask for the rest than for x
    while_x_comes();
    Moments* const moments = reinterpret_cast<Moments*>(shared + Block::kX + task.rows * task.x_pitch);
    norm.tell(inbox, moments);
    inbox.wait_for_all();
    const int team = static_cast<int>(blockIdx.x >> task.team_shift);
    const int last_team = static_cast<int>(gridDim.x >> task.team_shift) - 1;
    norm.finish(moments, [&](int row, int col, const float(&v)[8]) {
      store8(columns.place(row, col), v);
      if (team == min(row, last_team)) store8(task.norm.y + static_cast<std::int64_t>(row) * task.k + col, v);
    });
  } else {
    if constexpr (kStaged) columns.send([&] { after_row().exchange().wait_for_team(); });
    while_x_comes();
    if constexpr (kStaged) columns.settle();
  }
  __syncthreads();

  const int each = share.count() >> task.own_shift;
  int parts_there = kStaged && !normed ? 0 : Block::kParts;
  const auto wait_for_x = [&](int tile) {
    if constexpr (kStaged) columns.wait_for(tile, parts_there);
  };
#pragma unroll 1
  for (int turn = 0;;) {
    typename Sums<T, kRows, View::kSteps>::Spread whole[kDown];
    if (after_row().rows_of_warp(turn) > 0) {
      Gathered<typename Sums<T, kRows, View::kSteps>::Spread, kDown, Block::kMostOwnShift> gathered;
#pragma unroll 1
      for (int sharer = 0; sharer < 1 << task.own_shift; ++sharer) {
        Sums<T, kRows, View::kSteps> sums[kDown];
        add_products<T>(sums, view, stream, x, sharer * each, (sharer + 1) * each, kStep, column, wait_for_x);
#pragma unroll
        for (int i = 0; i < kDown; ++i) whole[i] = sums[i].spread(lane);
        gathered.add(sharer, whole);
      }
    }
    const auto after = after_row();
    if (turn > 0) after.exchange().wait_for_team();
    after.send(turn, whole);
    after.finish(turn);
    if (!after.has_rows(++turn)) break;
    after.exchange().let_go_on();
  }
}

/// How many teams of 2^team_shift blocks find room at once, where a block takes a whole multiprocessor.
template <auto kKernel>
int resident_teams(const Launch& launch, int threads, int team_shift) {
  return team_shift == 0 ? launch.processors
                         : resident_clusters<kKernel>(1U << team_shift, threads, most_shared_bytes());
}

/// About how many cycles a turn takes where a warp has so many tiles, `down` rows at once, and so many warps work: with
/// each other in the way of shared memory, where a table is in it, or else of memory; or by themselves; and the sums.
/// Measured for nf4 (NOTES, 2026-11-29); of 4.55 TB/s a multiprocessor has 18 bytes a cycle.
template <class View>
constexpr int few_cycles(int tiles, int down, int warps) {
  constexpr int kAlone = 350, kSums = 2500, kOfMemory = 18;
  const int tile = View::kHasTable ? (down > 1 ? 39 : 46) : WeightStream<View, 1>::kTileBytes / kOfMemory;
  return tiles * std::max(kAlone, tile * warps) + kSums;
}

template <class Layout, class T, int kRows>
bool launch_few(const Launch& launch, FewTask<Layout, T>& task, int parts) {
  using View = TileView<Layout>;
  // Of int4 with many rows of x too much would be spilled; 8 bits and more are held by memory where rows of x are few.
  constexpr int kMostDown =
      sizeof(T) == 2 && (View::kHasTable || (kRows > 8 ? View::kNoteBytes == 0 : View::kNoteBytes > 0)) ? 2 : 1;
  using Staged = FewBlock<View, T, kRows, true, 1>;
  using Down = FewBlock<View, T, kRows, true, kMostDown>;
  using Unstaged = FewBlock<View, T, kRows, false, 1>;
  constexpr auto kKernel = linear_few_kernel<Layout, T, kRows, true, 1>;
  constexpr auto kDownKernel = linear_few_kernel<Layout, T, kRows, true, kMostDown>;
  constexpr auto kUnstagedKernel = linear_few_kernel<Layout, T, kRows, false, 1>;
  task.sharers_shift = sharers_shift_of<View>(task.k);
  const auto launch_in_teams = [&](auto kernel, int teams, int threads, int shared) {
    launch_in_clusters(launch, kernel, dim3(static_cast<unsigned>(teams) << task.team_shift), 1U << task.team_shift,
                       threads, shared, task);
  };

  const int col_tiles = task.k / (16 * View::kSteps), sharers = 1 << task.sharers_shift;
  // Rows of x in shared memory begin in banks that those before leave free: lanes read runs of 16 bytes, or of 32.
  const auto pitch_of = [&](int team_shift) {
    const int of_block = (col_tiles + sharers - 1) / sharers * (sharers >> team_shift);
    const int bytes = of_block * 16 * View::kSteps * static_cast<int>(sizeof(T));
    return (bytes + 127) / 128 * 128 + (View::kSteps == 4 ? 16 : 64);
  };
  const int most_shift =
      has_clusters<kKernel>() ? std::min(task.sharers_shift, Staged::SumsExchange::kMostTeamShift) : 0;
  int shift = std::min(1, most_shift);  // x comes in half the time, and rows of tiles are dealt out more evenly
  const int room = std::min(most_shared_bytes() - Staged::kX, kMostRoomOfX);
  while (shift < most_shift && pitch_of(shift) * task.rows > room) ++shift;
  const int of_x = pitch_of(shift) * task.rows + (task.normed ? team_norm_bytes(task.k) : 0);
  const int staged = Staged::kX + of_x, down_staged = Down::kX + of_x;
  if (task.normed) {
    const int places = (task.rows + kTeamNormRows - 1) / kTeamNormRows * ((task.k >> shift) / kNormColumns);
    const bool is_divided = task.k % (kNormColumns << shift) == 0 && col_tiles % sharers == 0;
    if (staged > most_shared_bytes() || !is_divided || places > Staged::kMostNorm * Staged::kWarps) return false;
  }
  if (staged <= most_shared_bytes()) {
    task.team_shift = shift, task.x_pitch = pitch_of(shift);
    allow_shared_memory<kKernel>();
    allow_shared_memory<kDownKernel>();
    const Division division = divide(task.parts, parts, resident_teams<kKernel>(launch, Staged::kThreads, shift));
    // A warp can take several sharers where all have whole batches; two sets are sent at least.
    const bool is_even = col_tiles % (kBatch * sharers) == 0;
    const auto most_own = [&](int most) {
      return is_even ? std::min({most, task.sharers_shift - shift, task.sharers_shift - 1}) : 0;
    };
    const auto cycles = [&](int down, int own) {
      const int sharing = 1 << (task.sharers_shift - shift - own), groups = Staged::kWarps / sharing;
      const int full = division.most_tiles / (groups * down), rest = division.most_tiles % (groups * down);
      const auto turn = [&](int working) {
        return few_cycles<View>(col_tiles / sharers * (down << own), down, working * sharing);
      };
      return full * turn(groups) + (rest > 0 ? turn((rest + down - 1) / down) : 0);
    };
    int best_down = 1;
    int least = cycles(1, 0);
    const auto consider = [&](int down, int most) {
      for (int own = 0; own <= most_own(most); ++own) {
        if (cycles(down, own) < least) least = cycles(down, own), best_down = down, task.own_shift = own;
      }
    };
    consider(1, Staged::kMostOwnShift);
    if (kMostDown > 1 && down_staged <= most_shared_bytes()) consider(kMostDown, Down::kMostOwnShift);
    const int of_set = (col_tiles + sharers - 1) / sharers << task.own_shift;
    const int parts_of_x = col_tiles % sharers == 0 ? std::clamp(of_x / kLeastPartOfX, 1, Staged::kParts) : 1;
    task.part_tiles = ((of_set + parts_of_x - 1) / parts_of_x + kBatch - 1) / kBatch * kBatch;
    if (best_down > 1) {
      launch_in_teams(kDownKernel, division.blocks, Down::kThreads, down_staged);
    } else {
      launch_in_teams(kKernel, division.blocks, Staged::kThreads, staged);
    }
    return true;
  }
  task.team_shift = 0, task.x_pitch = task.k * static_cast<int>(sizeof(T));
  allow_shared_memory<kUnstagedKernel>();
  const int resident = resident_blocks<kUnstagedKernel>(Unstaged::kThreads, Unstaged::kX);
  const Division division = divide(task.parts, parts, launch.processors * resident);
  launch_in_teams(kUnstagedKernel, division.blocks, Unstaged::kThreads, Unstaged::kX);
  return true;
}

}  // namespace

template <class T, class Layout>
bool linear_few(const Launch& launch, const NormView<T>* norm, Tensor x, int first_row, int rows,
                std::span<const Projection> projections) {
  constexpr int kMostRows = sizeof(T) == 2 ? 16 : 8;  // fp32 has no registers for more
  if (norm != nullptr && (x.cols % kNormColumns != 0 || x.cols > kMostNormColumns)) return false;
  for (int done = 0; done < rows; done += kMostRows) {
    FewTask<Layout, T> task{};
    for (std::size_t i = 0; i < projections.size(); ++i) {
      task.parts[i].weight = TileView<Layout>(std::get<Layout>(projections[i].linear.weight));
      task.parts[i].finish = Finish<T>(projections[i], first_row + done);
    }
    task.rows = std::min(rows - done, kMostRows);
    task.k = x.cols;
    task.x = x.row<T>(first_row + done);
    task.normed = norm != nullptr;
    if (norm != nullptr) {
      task.norm = {norm->weight, norm->bias, norm->y + static_cast<std::int64_t>(first_row + done) * x.cols};
    }
    const auto parts = static_cast<int>(projections.size());
    const auto launched = [&] {
      if constexpr (kMostRows > 8) {
        if (task.rows > 8) return launch_few<Layout, T, 16>(launch, task, parts);
      }
      return launch_few<Layout, T, 8>(launch, task, parts);
    };
    if (!launched()) return false;
  }
  return true;
}

#define NIBBLE_FEW(T, ...)                                                                      \
  template bool linear_few<T, __VA_ARGS__>(const Launch&, const NormView<T>*, Tensor, int, int, \
                                           std::span<const Projection>);

}  // namespace nibble
