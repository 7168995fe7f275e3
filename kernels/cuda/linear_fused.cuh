// Many rows of x: weights are decoded on their way into the tensor cores of sm_90a.
//
// A block computes kRows rows of w times kColumns rows of x. Its warpgroups have 64 rows of w each, a warp sixteen,
// whose weights it keeps coming through a ring of its own (weight_stream.cuh), turns into factors in registers and
// multiplies, as the larger operand, with lines of x in shared memory. One thread of a warpgroup that multiplies
// nothing keeps these coming. A step is 64 columns; how it is multiplied, and what its sums are, fused_products.cuh
// says. While one group waits for its products, the others decode.
//
//   x -> arranged in lines -> ring in shared memory \
//   w -> rings in shared memory -> factors of T ------ wgmma -> fp32 sums -> (other blocks' of the cluster) -> finish
//
// Lanes hold runs of columns (tiles.cuh), and so x is arranged first (fused_lines.cuh).
//
// The columns of a weight of few rows are divided among blocks, by its shape and how many it is multiplied with, or
// where that changes no bit (linear_crowd.cuh), and their sums added up in one order (fused_sums.cuh): those of a
// cluster's blocks in shared memory, those of several pairs of blocks in memory, as larger clusters leave
// multiprocessors idle. So a row's result depends neither on the rows beside it nor on the tile it is in.
#pragma once

#include "kernels/cuda/fused_finish.cuh"
#include "kernels/cuda/fused_lines.cuh"
#include "kernels/cuda/fused_products.cuh"
#include "kernels/cuda/fused_room.cuh"
#include "kernels/cuda/fused_sums.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear_fused.h"
#include "kernels/cuda/ways.h"

namespace nibble {
namespace {

/// A number that others are divided by, in two instructions, where the product of both is below 2^31.
class Divisor {
 public:
  Divisor() = default;
  explicit Divisor(int by) : by_(by), inverse_((kOne - 1) / static_cast<std::uint32_t>(std::max(by, 1)) + 1) {}

  __device__ __forceinline__ int quotient(int u) const {
    return static_cast<int>((static_cast<std::uint64_t>(inverse_) * static_cast<std::uint32_t>(u)) >> 31);
  }
  __device__ __forceinline__ int by() const { return by_; }

 private:
  static constexpr std::uint32_t kOne = std::uint32_t{1} << 31;
  int by_ = 1;
  std::uint32_t inverse_ = kOne;
};

template <class Layout, class T>
struct FusedTask {
  struct Part {
    TileView<Layout> weight;
    Finish<T> finish;
  };
  Part parts[kMostProjections];
  int units;  ///< tiles of y: whole ones first, then those that have half as many rows of x
  int whole_units;
  Divisor row_tiles;     ///< of a part
  Divisor column_tiles;  ///< whole ones that rows of x make
  int rows;              ///< of x
  int steps;             ///< of 64 columns
  Split split;           ///< how they are divided
  int at_once;           ///< units that blocks take turns with
  int products;          ///< what Products are told
  const char* x;         ///< in lines: [steps][rows][kLineBytes]
  float4* sums;          ///< of pairs, [units][pairs of a split][eights][warps][lanes]
  int* counts;           ///< of those that are there, [units][blocks of a pair][warpgroups]: WorkingMemory::counts
};

/// kGathers: several pairs divide the columns of a tile. It takes registers that the other kernel would miss.
template <class Layout, class T, class Tile, bool kGathers>
__global__ void __launch_bounds__(Tile::kBlockThreads, 1)
    linear_fused_kernel(const __grid_constant__ FusedTask<Layout, T> task) {
  using View = TileView<Layout>;
  using Room = FusedRoom<View, Tile>;
  using Stream = typename Room::Stream;
  constexpr int kStages = Room::kBatchSteps / Room::kStageSteps;  // of a batch
  constexpr int kEights = Room::kEights;
  using Finisher = FusedFinish<T, View, Room::kScratchApart>;
  static_assert(kFusedColumns % (Room::kBatchSteps * kLineColumns) == 0);
  static_assert(Finisher::kScratchPieces == 4 * Room::kScratchPieces);
  extern __shared__ __align__(1024) char shared[];
  const std::uint32_t room = shared_address(shared);
  const std::uint32_t lines = room + Room::kLines;
  const std::uint32_t full = room + Room::kBarriers, empty = full + 8 * Room::kLineStages;
  // Sums have come; all blocks of the cluster have done with their rings; this one's has room for lines again.
  const std::uint32_t inbox_barrier = empty + 8 * Room::kLineStages, done = inbox_barrier + 8, free = done + 8;
  const std::uint32_t words_of_groups = free + 8;

  const int warp = __shfl_sync(0xffffffffU, static_cast<int>(threadIdx.x / 32), 0);
  const int lane = kept(static_cast<int>(threadIdx.x % 32));
  const int split = task.split.parts, cluster = task.split.cluster, at_once = task.at_once;
  const int batches = task.steps / Room::kBatchSteps;
  const auto part_of_split = [] { return static_cast<int>(blockIdx.x); };
  const auto first_batch = [&] { return batches * part_of_split() / split; };
  const int count = batches * (part_of_split() + 1) / split - first_batch();
  int unit = static_cast<int>(blockIdx.y);

  struct Place {
    int part, row, column;  ///< first row of w and of x
  };
  const auto place_of = [&](int u) {
    const bool is_whole = !Tile::kHasHalves || u < task.whole_units;
    const int tile = is_whole ? task.column_tiles.quotient(u) : u - task.whole_units;
    const int column = is_whole ? u - tile * task.column_tiles.by() : task.column_tiles.by();
    const int part = task.row_tiles.quotient(tile);
    return Place{part, (tile - part * task.row_tiles.by()) * Tile::kRows, column * Tile::kColumns};
  };
  const auto place_in_ring = [](unsigned number) { return number % Room::kLineStages; };
  const auto parity_of = [](unsigned number) { return static_cast<int>(number / Room::kLineStages % 2); };

  if (threadIdx.x == 0) {
    for (int i = 0; i < Room::kLineStages; ++i) {
      make_barrier(full + 8 * i, 1), make_barrier(empty + 8 * i, Tile::kWarps);
    }
    make_barrier(inbox_barrier, 1), make_barrier(done, cluster), make_barrier(free, Tile::kWarps);
    publish_barriers();
  }
  let_next_kernel_start();
  __syncthreads();
  const auto meet_multiplying = [] { meet_at<Tile::kThreads>(Tile::kWarps / 4 + 1); };
  const auto wait_for_others = [&] {
    if (cluster > 1) come_to_cluster(), wait_for_blocks();
    wait_for_previous_kernel();
  };

  if (warp >= Tile::kWarps) {
    set_registers<Tile::kOtherRegisters, false>();
    wait_for_others();
    if (threadIdx.x > Tile::kThreads) return;
    // Stages are numbered over all units, and go through the ring of lines in turn.
    unsigned number = 0;
    for (int turn = 0; unit < task.units; unit += at_once, ++turn) {
      const int column = place_of(unit).column, bytes = min(Tile::kColumns, task.rows - column) * kLineBytes;
      const std::int64_t step_bytes = std::int64_t{task.rows} * kLineBytes;
      const char* line = task.x + (std::int64_t{first_batch() * Room::kBatchSteps} * task.rows + column) * kLineBytes;
      if (cluster > 1) {
        if (turn > 0) wait(free, (turn - 1) % 2);  // sums have been where lines go
        const int eights = FusedShare::of<kEights>(block_of_cluster(), cluster).count;
        arrive_announcing(inbox_barrier, eights * (cluster - 1) * Tile::kWarps * Room::kEightBytes);
      }
#pragma unroll 1
      for (int stage = 0; stage < count * kStages; ++stage, ++number) {
        const unsigned place = place_in_ring(number);
        wait(empty + 8 * place, parity_of(number) ^ 1);
        arrive_announcing(full + 8 * place, bytes * Room::kStageSteps);
#pragma unroll
        for (int i = 0; i < Room::kStageSteps; ++i, line += step_bytes) {
          copy_bulk(lines + place * Room::kStageBytes + i * Tile::kStepBytes, line, bytes, full + 8 * place);
        }
      }
    }
    return;
  }

  set_registers<Tile::kRegisters, true>();
  // A warp's way through its weights of a unit. Rows of tiles that are not there are those of the last one.
  const auto tile_of = [&](const Place& place) { return place.row / kTileRows + warp; };
  const auto begin = [&](const Place& place) {
    const View& view = task.parts[place.part].weight;
    Stream stream(view, min(tile_of(place), view.n / kTileRows - 1), 0, 1, 1,
                  Share(first_batch() * kBatch, (first_batch() + count) * kBatch),
                  room + Room::kWeights + warp * Stream::kBytes, lane);
#pragma unroll
    for (int i = 0; i < Room::kWeightStages; ++i) stream.ask();
    return stream;
  };
  int part_number = place_of(unit).part;
  Stream stream = begin(place_of(unit));
  if constexpr (View::kHasTable) {
    fill_pair_table<T, Tile::kThreads>(task.parts[0].weight.levels, shared);
    meet_multiplying();
  }
  wait_for_others();

  unsigned taken = 0, finished_turns = 0;  // batches, and turns of results
  int taken_units = 0;
  const std::uint32_t table = kept(column_of<T>(lane) + room - kReservedShared);
  while (true) {
    const View& view = task.parts[part_number].weight;
    const auto release = [&](unsigned number) {
      if (lane == 0) arrive(empty + 8 * place_in_ring(number));
    };
    float sum[Tile::kColumns / 2] = {};
    const auto multiply = [&]<int kColumns>(std::integral_constant<int, kColumns>) {
      typename Tile::template Products<T, View, kColumns> products(reinterpret_cast<float(&)[kColumns / 2]>(sum),
                                                                   task.products);
      const auto take_stage = [&]<int kStage, int... kStep>(std::integer_sequence<int, kStep...>,
                                                            std::integral_constant<int, kStage>, int batch) {
        const bool is_first = kStage == 0 && batch == 0;
        const unsigned number = taken * kStages + kStage;
        const std::uint32_t place = uniform(lines + place_in_ring(number) * Room::kStageBytes);
        const auto take_step = [&]<int kOfStage>(std::integral_constant<int, kOfStage>) {
          products.template take_step<kStage * Room::kStageSteps + kOfStage>(
              view, stream, table, describe_lines(place + kOfStage * Tile::kStepBytes),
              [&] {
                if (kOfStage == 0) wait(full + 8 * place_in_ring(number), parity_of(number));
              },
              [&] {
                if (kOfStage == 0 && !is_first) release(number - 1);
              });
        };
        (take_step(std::integral_constant<int, kStep>{}), ...);
      };
      const auto take_batch = [&]<int... kStage>(std::integer_sequence<int, kStage...>, int batch) {
        stream.wait();
        (take_stage(std::make_integer_sequence<int, Room::kStageSteps>{}, std::integral_constant<int, kStage>{}, batch),
         ...);
        __syncwarp();
        stream.ask();
      };
#pragma unroll 1
      for (int batch = 0; batch < count;) {
        const int end = batch + products.batches(count);
#pragma unroll 1
        for (; batch < end; ++batch, ++taken) take_batch(std::make_integer_sequence<int, kStages>{}, batch);
        products.gather();
      }
      products.end();
    };
    constexpr int kHalf = Tile::kHasHalves ? Tile::kColumns / 2 : Tile::kColumns;
    if (Tile::kHasHalves && unit >= task.whole_units) {
      multiply(std::integral_constant<int, kHalf>{});
    } else {
      multiply(std::integral_constant<int, Tile::kColumns>{});
    }
    release(taken * kStages - 1);

    const int finished_unit = kept(unit);
    const Place finished = place_of(finished_unit);
    unit += at_once;
    const bool goes_on = unit < task.units;
    if (goes_on) part_number = place_of(unit).part;
    const auto& part = task.parts[finished.part];
    FusedShare share{0, kEights};
    if (cluster == 1) {
      // The next unit's first weights are on their way while this one is finished.
      if (goes_on) stream = begin(place_of(unit));
    } else {
      const int blocks = kept(cluster), parity = taken_units % 2;
      meet_multiplying();  // and one warp speaks for all
      if (static_cast<int>(threadIdx.x) < blocks) arrive_there(in_block(done, lane));
      wait(done, parity);
      const std::uint32_t inbox =
          lines + static_cast<std::uint32_t>(warp * Room::eights_of(blocks) * Room::kEightBytes + lane * 16);
      share = share_sums<Room>(sum, inbox, inbox_barrier, parity, blocks);
      let_copies_follow();
      __syncwarp();
      if (lane == 0) arrive(free);
      if (goes_on) {
        wait(free, parity);  // other warps' sums may be where this one's weights go
        stream = begin(place_of(unit));
      }
    }
    ++taken_units;
    bool has_all = true;
    if constexpr (kGathers) {
      const int pairs = split / 2, pair = part_of_split() / 2, block = part_of_split() % 2;
      const std::int64_t place = std::int64_t{finished_unit} * pairs * kEights + share.first;
      const int group = warp / 4;
      has_all = gather_sums<Tile, Room>(sum, task.sums + place * Tile::kThreads + kept(static_cast<int>(threadIdx.x)),
                                        task.counts + (finished_unit * 2 + block) * (Tile::kWarps / 4) + group,
                                        words_of_groups + 4 * group, pair, pairs);
    }
    if (has_all) {
      const int column = finished.column + share.first * 8, rows = share.count * 8;
      const std::uint32_t scratch =
          kept(room + Room::kScratch + warp / 4 * Finisher::kScratchPieces * Room::kScratchApart);
      const Finisher finisher(part.weight, part.finish, tile_of(finished), task.rows, scratch, warp, kept(lane));
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
        finisher.store(finished_turns++, words + done / 4, first, rows - done, now);
      }
    }
    if (!goes_on) return;
  }
}

/// As many blocks as find room at once take turns.
template <class Layout, class T, class Tile, bool kGathers>
void launch_in_turns(const Launch& launch, FusedTask<Layout, T>& task) {
  constexpr auto kKernel = linear_fused_kernel<Layout, T, Tile, kGathers>;
  constexpr int kBytes = FusedRoom<TileView<Layout>, Tile>::kBytes;
  static_assert(FusedRoom<TileView<Layout>, Tile>::has_room());
  allow_shared_memory<kKernel>();
  const auto cluster = static_cast<unsigned>(task.split.cluster);
  const int resident = resident_clusters<kKernel>(cluster, Tile::kBlockThreads, kBytes);
  task.at_once = std::clamp(resident / task.split.clusters(), 1, task.units);
  const dim3 grid(static_cast<unsigned>(task.split.parts), static_cast<unsigned>(task.at_once));
  launch_in_clusters(launch, kKernel, grid, cluster, Tile::kBlockThreads, kBytes, task);
}

/// Calls the kernel of kTiles' tile number `tile`.
template <template <class, class, int> class Products, const auto& kTiles, class Layout, class T>
void launch_tile(int tile, const Launch& launch, FusedTask<Layout, T>& task, int parts) {
  const auto launch_it = [&]<class Tile>(std::type_identity<Tile>) {
    const bool has_halves = Tile::kHasHalves && has_half_tile(task.rows, Tile::kColumns);
    const int columns = (task.rows + Tile::kColumns - 1) / Tile::kColumns - (has_halves ? 1 : 0);
    const int row_tiles = (task.parts[0].weight.n + Tile::kRows - 1) / Tile::kRows;
    task.column_tiles = Divisor(columns), task.row_tiles = Divisor(row_tiles);
    task.whole_units = parts * row_tiles * columns;
    task.units = task.whole_units + (has_halves ? parts * row_tiles : 0);
    if constexpr (Tile::kRows * Tile::kColumns <= kMostPairSums) {
      if (task.split.clusters() > 1) return launch_in_turns<Layout, T, Tile, true>(launch, task);
    }
    launch_in_turns<Layout, T, Tile, false>(launch, task);
  };
  [&]<std::size_t... kTile>(std::index_sequence<kTile...>) {
    ((tile == kTile ? launch_it(std::type_identity<FusedTile<Products, kTiles[kTile].rows, kTiles[kTile].columns,
                                                             kTiles[kTile].stage_steps, kTiles[kTile].steps>>{})
                    : void()),
     ...);
  }
  (std::make_index_sequence<std::size(kTiles)>{});
}

/// Room that is there beside sums of several clusters, which have its end.
inline std::span<std::byte> beside_sums(const WorkingMemory& memory) {
  constexpr std::size_t kSums = kMostPairs * sizeof(float) * kMostPairSums, kAligned = 256;
  return memory.room.first((memory.room.size() - kSums) / kAligned * kAligned);
}

/// Calls `multiply` with the task that `projections` of rows of x, or of their LayerNorm, are, as many as `most` and
/// the room for their lines, `lines`, allow at once.
template <class T, class Layout, class F>
void in_lines(const Launch& launch, const WorkingMemory& memory, std::span<std::byte> lines, const NormView<T>* norm,
              Tensor x, int first_row, int rows, int most, std::span<const Projection> projections, F&& multiply) {
  static_assert(kFusedColumns % kNormColumns == 0);
  const std::size_t row_bytes = static_cast<std::size_t>(x.cols) * sizeof(T);
  most = std::min(most, static_cast<int>(lines.size() / row_bytes) / kMostTileColumns * kMostTileColumns);
  for (int done = 0; done < rows; done += most) {
    const int first = first_row + done;
    FusedTask<Layout, T> task{};
    for (std::size_t i = 0; i < projections.size(); ++i) {
      task.parts[i].weight = TileView<Layout>(std::get<Layout>(projections[i].linear.weight));
      task.parts[i].finish = Finish<T>(projections[i], first);
    }
    task.rows = std::min(most, rows - done), task.steps = x.cols / kLineColumns;
    task.x = reinterpret_cast<const char*>(lines.data());
    task.sums = reinterpret_cast<float4*>(std::to_address(beside_sums(memory).end())), task.counts = memory.counts;
    arrange<TileView<Layout>::kSteps>(launch, norm, x, first, task.rows, lines.data());
    multiply(task);
  }
}

}  // namespace

template <class T, class Layout>
void linear_fused(const Launch& launch, const WorkingMemory& memory, const NormView<T>* norm, Tensor x, int first_row,
                  int rows, Split split, std::span<const Projection> projections) {
  const auto parts = static_cast<int>(projections.size());
  const auto multiply = [&](FusedTask<Layout, T>& task) {
    task.split = split;
    const FusedTiling tiling = fused_tiling(parts, task.parts[0].weight.n, x.cols, task.rows, split);
    launch_tile<ScaledProducts, kFusedTiles, Layout, T>(tiling.tile, launch, task, parts);
  };
  const int most = std::min(rows, most_fused_rows(parts, projections[0].y.cols, split));
  const std::span<std::byte> lines = split.clusters() == 1 ? memory.room : beside_sums(memory);
  in_lines<T, Layout>(launch, memory, lines, norm, x, first_row, rows, most, projections, multiply);
}

#define NIBBLE_FUSED(T, ...)                                                                                       \
  template void linear_fused<T, __VA_ARGS__>(const Launch&, const WorkingMemory&, const NormView<T>*, Tensor, int, \
                                             int, Split, std::span<const Projection>);

}  // namespace nibble
