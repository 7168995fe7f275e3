// Many rows of x: weights are decoded on their way into the tensor cores of sm_90a.
//
// A block computes kRows rows of w times kColumns rows of x. Its four warpgroups have 64 rows of w each, a warp
// sixteen, whose weights it keeps coming through a ring of its own (weight_stream.cuh), turns into factors in registers
// and multiplies, as the larger operand, with lines of x in shared memory, which threads keep coming by turns. A step
// is 64 columns. While one group waits for its products, the others decode.
//
//   x -> arranged in lines -> ring in shared memory \
//   w -> rings in shared memory -> factors of T ------ wgmma -> fp32 sums -> (other blocks' of the cluster) -> finish
//
// Lanes hold runs of columns (tiles.cuh), and so x is arranged first (fused_lines.cuh).
//
// The columns of a weight of few rows are divided among the blocks of a cluster, by the weight's shape alone, and their
// sums added up in the order of the columns. So a row's result depends neither on the rows beside it nor on the tile it
// is in.
#pragma once

#include "kernels/cuda/fused_finish.cuh"
#include "kernels/cuda/fused_lines.cuh"
#include "kernels/cuda/linear_fused.h"
#include "kernels/cuda/ways.h"

namespace nibble {
namespace {

/// Tiles of a kernel.
template <int kColumns_, int kLineStages_, int kWeightStages_>
struct FusedTile {
  static constexpr int kColumns = kColumns_;            ///< rows of x
  static constexpr int kLineStages = kLineStages_;      ///< steps of x in the ring
  static constexpr int kWeightStages = kWeightStages_;  ///< batches of tiles in a warp's
  static constexpr int kWarps = 16;
  static constexpr int kRows = kTileRows * kWarps;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kStageBytes = kColumns * kLineBytes;
};

/// Where a block has what in shared memory. Sums on their way out of registers take kScratchPieces of 128 bytes a warp,
/// which fit into the gaps of a table of pairs; those of all blocks of a cluster take the place of both rings.
template <class View, class Tile>
struct FusedRoom {
  using Stream = WeightStream<View, Tile::kWeightStages>;
  static constexpr int kEights = Tile::kColumns / 8;
  static constexpr int kScratchPieces = 16;
  static constexpr int kScratch = View::kHasTable ? 128 : 0;
  static constexpr int kScratchApart = View::kHasTable ? 256 : 128;
  static constexpr int kLines = Tile::kWarps * kScratchPieces * kScratchApart;
  static_assert(!View::kHasTable || kLines == kPairTableBytes);
  static constexpr int kWeights = kLines + Tile::kLineStages * Tile::kStageBytes;
  static constexpr int kBarriers = kWeights + Tile::kWarps * Stream::kBytes;
  static constexpr int kSources = kBarriers + 8 * (2 * Tile::kLineStages + 2);
  static constexpr int kBytes = kSources + 2 * 16;

  /// A warp's sums of eight rows of x, from one block.
  static constexpr int kEightBytes = 8 * kTileRows * 4;
  /// Eights that the blocks of a cluster have together when each takes as many as the one with the most.
  static constexpr int eights_of(int split) { return (kEights + split - 1) / split * split; }
  static constexpr bool has_room() {
    for (int split = 1; split <= kMostSplit; ++split) {
      const bool fits = kLines + Tile::kWarps * kEightBytes * eights_of(split) <= kBarriers;
      if (fused_takes(Tile::kColumns, split) && !fits) return false;
    }
    return true;
  }
};

template <class Layout, class T>
struct FusedTask {
  struct Part {
    TileView<Layout> weight;
    Finish<T> finish;
    int first_unit;  ///< units of the parts follow each other
  };
  Part parts[kMostProjections];
  int units;         ///< tiles of y
  int column_tiles;  ///< tiles that rows of x make
  int rows;          ///< of x
  int steps;         ///< of 64 columns
  int split;         ///< blocks that divide them, a cluster
  int clusters;      ///< which take turns with units
  const char* x;     ///< in lines: [steps][rows][kLineBytes]
};

/// The rows of x whose results a block has, by eights: its share where blocks of a cluster divide the columns.
struct FusedShare {
  int first, count;

  template <int kEights>
  __device__ __forceinline__ static FusedShare of(int block, int blocks) {
    const int first = kEights * block / blocks;
    return {first, kEights * (block + 1) / blocks - first};
  }
};

/// Sends a warp's sums to the blocks of the cluster whose share they are of, and adds up what has come for this
/// block's, in the order of columns: those of the share's first eight come first. `inbox` is the lane's place in the
/// warp's, where rings were that all blocks have done with.
template <class Room, int kSums>
__device__ __forceinline__ FusedShare share_sums(float (&sum)[kSums], std::uint32_t inbox, std::uint32_t barrier,
                                                 int parity, int blocks) {
  constexpr int kEights = Room::kEights;
  const int rank = block_of_cluster();
  const FusedShare own = FusedShare::of<kEights>(rank, blocks);
  // Eights of a share follow each other, each block's sums of one beside those of the others.
  const auto place_of = [&](int eight, int block) {
    return inbox + static_cast<std::uint32_t>((eight * blocks + block) * Room::kEightBytes);
  };
#pragma unroll
  for (int i = 0; i < kEights; ++i) {
    const int to = ((i + 1) * blocks - 1) / kEights;
    const std::uint32_t there = place_of(i - FusedShare::of<kEights>(to, blocks).first, rank);
    if (to == rank) {
      store_shared(there, sum[4 * i], sum[4 * i + 1], sum[4 * i + 2], sum[4 * i + 3]);
    } else {
      send_there(in_block(there, to), sum[4 * i], sum[4 * i + 1], sum[4 * i + 2], sum[4 * i + 3],
                 in_block(barrier, to));
    }
  }
  wait_for_cluster(barrier, parity);
#pragma unroll
  for (int i = 0; i < kEights / 2; ++i) {
    if (i >= own.count) break;
    float(&four)[4] = *reinterpret_cast<float(*)[4]>(sum + 4 * i);
    four[0] = four[1] = four[2] = four[3] = 0;
#pragma unroll 1
    for (int block = 0; block < blocks; ++block) {
      const uint4 v = load_shared(place_of(i, block));
      four[0] += __uint_as_float(v.x), four[1] += __uint_as_float(v.y);
      four[2] += __uint_as_float(v.z), four[3] += __uint_as_float(v.w);
    }
  }
  return own;
}

template <class Layout, class T, class Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    linear_fused_kernel(const __grid_constant__ FusedTask<Layout, T> task) {
  using View = TileView<Layout>;
  using Room = FusedRoom<View, Tile>;
  using Stream = typename Room::Stream;
  constexpr int kTiles = 4 / View::kSteps;       // of a step
  constexpr int kStepsAtOnce = kBatch / kTiles;  // of a batch
  constexpr int kEights = Room::kEights;
  using Finisher = FusedFinish<T, View, Room::kScratchApart>;
  // Steps of x that are on their way: the thread that asks for them does not wait for the last ones' readers.
  constexpr int kAhead = Tile::kLineStages - 2;
  static_assert(kAhead <= kStepsAtOnce && Tile::kRows == kFusedTileRows &&
                kFusedColumns % (kStepsAtOnce * kLineColumns) == 0);
  extern __shared__ __align__(1024) char shared[];
  const std::uint32_t room = shared_address(shared);
  const std::uint32_t lines = room + Room::kLines;
  const std::uint32_t full = room + Room::kBarriers, empty = full + 8 * Tile::kLineStages;
  const std::uint32_t inbox_barrier = empty + 8 * Tile::kLineStages;

  const int warp = __shfl_sync(0xffffffffU, static_cast<int>(threadIdx.x / 32), 0);
  const int lane = kept(static_cast<int>(threadIdx.x % 32));
  const int split = task.split, clusters = task.clusters;
  const int batches = task.steps / kStepsAtOnce;
  const auto first_batch = [&] { return batches * block_of_cluster() / split; };
  const int count = batches * (block_of_cluster() + 1) / split - first_batch();
  int unit = static_cast<int>(blockIdx.x) / split;

  struct Place {
    int part, row, column;  ///< first row of w and of x
  };
  const auto place_of = [&](int u) {
    const int part = u < task.parts[1].first_unit ? 0 : u < task.parts[2].first_unit ? 1 : 2;
    u -= task.parts[part].first_unit;
    return Place{part, u / task.column_tiles * Tile::kRows, u % task.column_tiles * Tile::kColumns};
  };
  // A warp's way through its weights of a unit. Rows of tiles that are not there are those of the last one.
  const auto tile_of = [&](const Place& place) { return place.row / kTileRows + warp; };
  const auto begin = [&](const Place& place) {
    const View& view = task.parts[place.part].weight;
    Stream stream(view, min(tile_of(place), view.n / kTileRows - 1), 0, 1, 1,
                  Share(first_batch() * kBatch, (first_batch() + count) * kBatch),
                  room + Room::kWeights + warp * Stream::kBytes, lane);
#pragma unroll
    for (int i = 0; i < Tile::kWeightStages; ++i) stream.ask();
    return stream;
  };
  if constexpr (View::kHasTable) fill_pair_table<T, Tile::kThreads>(task.parts[0].weight.levels, shared);
  if (threadIdx.x == 0) {
    for (int i = 0; i < Tile::kLineStages; ++i) {
      make_barrier(full + 8 * i, 1), make_barrier(empty + 8 * i, Tile::kWarps);
    }
    make_barrier(inbox_barrier, 1);
    publish_barriers();
  }
  let_next_kernel_start();

  // Where lines of x begin for this unit and the next, in turn, and how many bytes a step has; none where there is no
  // such unit.
  const auto set_source = [&](int u, int turn) {
    uint4 source{};
    if (u < task.units) {
      const int column = place_of(u).column;
      const auto line = reinterpret_cast<std::uint64_t>(
          task.x + (std::int64_t{first_batch() * kStepsAtOnce} * task.rows + column) * kLineBytes);
      source = {static_cast<std::uint32_t>(line), static_cast<std::uint32_t>(line >> 32),
                static_cast<std::uint32_t>(min(Tile::kColumns, task.rows - column) * kLineBytes), 0};
    }
    *reinterpret_cast<uint4*>(shared + Room::kSources + (turn & 1) * 16) = source;
  };
  int taken_units = 0;
  if (threadIdx.x == 0) set_source(unit, 0), set_source(unit + clusters, 1);
  int part_number = place_of(unit).part;
  Stream stream = begin(place_of(unit));
  __syncthreads();
  wait_for_previous_kernel();

  // Steps are numbered over all units, and go through the ring of lines in turn. One thread, each time of another warp,
  // sends for the step that is kAhead further, of this unit or the next.
  unsigned taken = 0;  // batches
  const auto stage_of = [](unsigned number) { return number % Tile::kLineStages; };
  const auto parity_of = [](unsigned number) { return static_cast<int>(number / Tile::kLineStages % 2); };
  const auto fill = [&](int step, unsigned number) {
    const bool is_next = step >= count * kStepsAtOnce;
    if (is_next && split > 1) return;  // sums come before it
    if (is_next) step -= count * kStepsAtOnce;
    const uint4 source = load_shared(room + Room::kSources + ((taken_units + (is_next ? 1 : 0)) & 1) * 16);
    const auto bytes = static_cast<int>(source.z);
    if (bytes == 0) return;
    const auto* const line = reinterpret_cast<const char*>(source.x | static_cast<std::uint64_t>(source.y) << 32);
    const unsigned stage = stage_of(number);
    wait(empty + 8 * stage, parity_of(number) ^ 1);
    arrive_announcing(full + 8 * stage, bytes);
    copy_bulk(lines + stage * Tile::kStageBytes, line + std::int64_t{step} * (task.rows * kLineBytes), bytes,
              full + 8 * stage);
  };
  const auto fill_first = [&] {
    if (threadIdx.x > 0) return;
    for (unsigned i = 0; i < kAhead; ++i) fill(static_cast<int>(i), taken * kStepsAtOnce + i);
    if (split > 1) {
      const int eights = FusedShare::of<kEights>(block_of_cluster(), split).count;
      arrive_announcing(inbox_barrier, eights * (split - 1) * Tile::kWarps * Room::kEightBytes);
    }
  };
  fill_first();

  const std::uint32_t table = kept(column_of<T>(lane) + room - kReservedShared);
  while (true) {
    float sum[Tile::kColumns / 2];
    std::uint32_t factors[4][4];  // of a step
    const View& view = task.parts[part_number].weight;
    const auto release = [&](unsigned number) {
      if (lane == 0) arrive(empty + 8 * stage_of(number));
    };
    // Half a step's products are under way while the other half's factors are made.
    const auto take_step = [&]<int kStep>(std::integral_constant<int, kStep>, int batch) {
      const bool is_first = kStep == 0 && batch == 0;
      const unsigned number = taken * kStepsAtOnce + kStep;
      StepOfWeights<T, View> weights;
      weights.read(view, stream, kStep * kTiles);
      const std::uint64_t b = describe_lines(lines + stage_of(number) * Tile::kStageBytes);
      const auto take_half = [&]<int kHalf>(std::integral_constant<int, kHalf>) {
        weights.template decode<2 * kHalf>(view, table, factors[2 * kHalf]);
        weights.template decode<2 * kHalf + 1>(view, table, factors[2 * kHalf + 1]);
        if (kHalf == 0) wait(full + 8 * stage_of(number), parity_of(number));
        begin_products();
        multiply<T, Tile::kColumns>(sum, factors[2 * kHalf], b + 4 * kHalf, kHalf > 0 || !is_first);
        multiply<T, Tile::kColumns>(sum, factors[2 * kHalf + 1], b + 4 * kHalf + 2, true);
        commit_products();
        wait_for_products<1>();
      };
      take_half(std::integral_constant<int, 0>{});
      if (!is_first) release(number - 1);
      take_half(std::integral_constant<int, 1>{});
      if (threadIdx.x == number % Tile::kWarps * 32) {
        fill(batch * kStepsAtOnce + kStep + kAhead, number + kAhead);
      }
    };
    const auto take_batch = [&]<int... kStep>(std::integer_sequence<int, kStep...>, int batch) {
      stream.wait();
      (take_step(std::integral_constant<int, kStep>{}, batch), ...);
      __syncwarp();
      stream.ask();
    };
#pragma unroll 1
    for (int batch = 0; batch < count; ++batch) {
      take_batch(std::make_integer_sequence<int, kStepsAtOnce>{}, batch);
      ++taken;
    }
    wait_for_products<0>();
    release(taken * kStepsAtOnce - 1);
#pragma unroll
    for (float& s : sum) asm volatile("" : "+f"(s));  // not before they are there

    const Place finished = place_of(kept(unit));
    unit += clusters;
    if (threadIdx.x == 0) set_source(unit + clusters, taken_units);
    ++taken_units;
    const bool goes_on = unit < task.units;
    if (goes_on) part_number = place_of(unit).part;
    const auto& part = task.parts[finished.part];
    int column = finished.column, rows = Tile::kColumns;
    if (split == 1) {
      // The next unit's first weights are on their way while this one is finished.
      if (goes_on) stream = begin(place_of(unit));
    } else {
      come_to_cluster(), wait_for_blocks();  // all have done with their rings
      const int blocks = kept(split);
      const std::uint32_t inbox =
          lines + static_cast<std::uint32_t>(warp * Room::eights_of(blocks) * Room::kEightBytes + lane * 16);
      const FusedShare share = share_sums<Room>(sum, inbox, inbox_barrier, (taken_units - 1) % 2, blocks);
      column += share.first * 8, rows = share.count * 8;
    }
    const std::uint32_t scratch = kept(room + Room::kScratch + warp * Room::kScratchPieces * Room::kScratchApart);
    const Finisher finisher(part.weight, part.finish, tile_of(finished), task.rows, scratch, kept(lane));
    std::uint32_t words[Tile::kColumns / 4];
    auto ahead = finisher.fetch(column, rows);
    finisher.finish(sum, words);
#pragma unroll
    for (int turn = 0; turn < Tile::kColumns / Finisher::kRows; ++turn) {
      const int done = turn * Finisher::kRows, first = column + done;
      if (done >= rows || first >= task.rows) break;
      const auto now = ahead;
      now.wait();
      ahead = finisher.fetch(first + Finisher::kRows, rows - done - Finisher::kRows);
      finisher.store(words + done / 4, first, rows - done, now);
    }
    if (split > 1) {
      let_copies_follow();
      __syncthreads();
    }
    if (!goes_on) return;
    if (split > 1) {
      stream = begin(place_of(unit));
      fill_first();
    }
  }
}

template <class Layout, class T, class Tile>
void launch_fused(const Launch& launch, FusedTask<Layout, T>& task, int parts) {
  constexpr auto kKernel = linear_fused_kernel<Layout, T, Tile>;
  constexpr int kBytes = FusedRoom<TileView<Layout>, Tile>::kBytes;
  static_assert(kBytes <= 227 << 10 && FusedRoom<TileView<Layout>, Tile>::has_room());
  allow_shared_memory<kKernel>();
  task.column_tiles = (task.rows + Tile::kColumns - 1) / Tile::kColumns;
  task.units = 0;
  for (int i = 0; i < kMostProjections; ++i) {
    task.parts[i].first_unit = task.units;
    if (i < parts) task.units += (task.parts[i].weight.n + Tile::kRows - 1) / Tile::kRows * task.column_tiles;
  }
  const auto split = static_cast<unsigned>(task.split);
  task.clusters = std::min(resident_clusters<kKernel>(split, Tile::kThreads, kBytes), task.units);
  launch_in_clusters(launch, kKernel, dim3(static_cast<unsigned>(task.clusters) * split), split, Tile::kThreads, kBytes,
                     task);
}

}  // namespace

template <class T, class Layout>
void linear_fused(const Launch& launch, std::span<std::byte> room, const NormView<T>* norm, Tensor x, int first_row,
                  int rows, int split, std::span<const Projection> projections) {
  static_assert(kFusedColumns % kNormColumns == 0);
  const std::size_t row_bytes = static_cast<std::size_t>(x.cols) * sizeof(T);
  const int most = static_cast<int>(room.size() / row_bytes) / kWide * kWide;
  const auto parts = static_cast<int>(projections.size());
  for (int done = 0; done < rows; done += most) {
    FusedTask<Layout, T> task{};
    for (int i = 0; i < parts; ++i) {
      task.parts[i].weight = TileView<Layout>(std::get<Layout>(projections[i].linear.weight));
      task.parts[i].finish = Finish<T>(projections[i], first_row + done);
    }
    task.rows = std::min(most, rows - done);
    task.steps = x.cols / kLineColumns;
    task.split = split;
    task.x = reinterpret_cast<const char*>(room.data());
    arrange<TileView<Layout>::kSteps>(launch, norm, x, first_row + done, task.rows, room.data());
    if (fused_tiling(parts, task.parts[0].weight.n, x.cols, task.rows, split).columns == kNarrow) {
      launch_fused<Layout, T, FusedTile<kNarrow, 4, 3>>(launch, task, parts);
    } else {
      launch_fused<Layout, T, FusedTile<kWide, 4, 2>>(launch, task, parts);
    }
  }
}

#define NIBBLE_FUSED(T, ...)                                                                                       \
  template void linear_fused<T, __VA_ARGS__>(const Launch&, std::span<std::byte>, const NormView<T>*, Tensor, int, \
                                             int, int, std::span<const Projection>);

}  // namespace nibble
