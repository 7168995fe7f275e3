// Many rows of x: weights are decoded on their way into the tensor cores of sm_90a.
//
// A block computes kRows rows of w times kColumns rows of x. Its four warpgroups have 64 rows of w each, a warp
// sixteen, whose weights it keeps coming through a ring of its own (weight_stream.cuh), turns into factors in registers
// and multiplies, as the larger operand, with lines of x in shared memory, which one thread keeps coming. A step is 64
// columns. While one group waits for its products, the others decode.
//
//   x -> arranged in lines -> ring in shared memory \
//   w -> rings in shared memory -> factors of T ------ wgmma -> fp32 sums -> (other blocks' of the cluster) -> finish
//
// Lanes hold runs of columns (tiles.cuh), and so x is arranged first: within a step its columns stand in the order in
// which lanes' factors meet them, in lines as wgmma reads them.
//
// The columns of a weight of few rows are divided among the blocks of a cluster, by the weight's shape alone, and their
// sums added up in the order of the columns. So a row's result depends neither on the rows beside it nor on the tile it
// is in.
#pragma once

#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear_fused.h"
#include "kernels/cuda/norm.cuh"
#include "kernels/cuda/team.cuh"
#include "kernels/cuda/ways.h"
#include "kernels/cuda/weight_stream.cuh"

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

  /// Eights of rows of x that the blocks of a cluster have together when each takes as many as the one with the most:
  /// a warp's sums of one, from one block, are 512 bytes.
  static constexpr int eights_of(int split) { return (kEights + split - 1) / split * split; }
  static constexpr bool has_room() {
    for (int split = 1; split <= kMostSplit; ++split) {
      const bool fits = kLines + Tile::kWarps * 512 * eights_of(split) <= kBarriers;
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

/// Brings x into the order in which lanes' factors meet its columns. A thread moves four pieces of a line, whose four
/// pairs of columns it deals out to four others.
template <int kSteps>
__global__ void __launch_bounds__(256) arrange_kernel(const uint4* x, int rows, int steps, uint4* out) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  const unsigned i = blockIdx.x * 256 + threadIdx.x;
  const unsigned half = i % 2, step = i / 2 % static_cast<unsigned>(steps), row = i / 2 / static_cast<unsigned>(steps);
  if (row >= static_cast<unsigned>(rows)) return;
  const std::int64_t line = static_cast<std::int64_t>(row) * steps + step;
  std::uint32_t words[4][4];
#pragma unroll
  for (unsigned t = 0; t < 4; ++t) {
    const uint4 piece = x[line * 8 + (kSteps == 4 ? 2 * t + half : 4 * half + t)];
    words[0][t] = piece.x, words[1][t] = piece.y, words[2][t] = piece.z, words[3][t] = piece.w;
  }
  uint4* const to = out + (static_cast<std::int64_t>(step) * rows + row) * 8;
#pragma unroll
  for (unsigned p = 0; p < 4; ++p) {
    to[(4 * half ^ row % 8) ^ p] = {words[p][0], words[p][1], words[p][2], words[p][3]};
  }
}

/// The same behind LayerNorm, of which a block does a row.
template <class T, int kSteps>
__global__ void __launch_bounds__(kNormThreads)
    arrange_normed_kernel(const T* x, int rows, int cols, NormTask<T> norm, std::uint32_t* out) {
  __shared__ Moments scratch[kNormWarps];
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * cols;
  let_next_kernel_start();
  wait_for_previous_kernel();
  normalise_row<kNormTurns>(x + first, cols, norm, scratch, [&](int col, const float(&v)[8]) {
    uint4 piece;
    store8(reinterpret_cast<T*>(&piece), v);
    *reinterpret_cast<uint4*>(norm.y + first + col) = piece;
    const unsigned half = kSteps == 4 ? col / 8 % 2 : col / 32 % 2, word = kSteps == 4 ? col / 16 % 4 : col / 8 % 4;
    std::uint32_t* const line = out + (std::int64_t{col / kLineColumns} * rows + blockIdx.x) * (kLineBytes / 4);
#pragma unroll
    for (int p = 0; p < 4; ++p) line[((4 * half ^ blockIdx.x % 8) ^ p) * 4 + word] = word_at(piece, p);
  });
}

template <class T>
__device__ __forceinline__ std::uint32_t multiply2(std::uint32_t a, std::uint32_t b);
template <>
__device__ __forceinline__ std::uint32_t multiply2<Half>(std::uint32_t a, std::uint32_t b) {
  const __half2 product = __hmul2(*reinterpret_cast<const __half2*>(&a), *reinterpret_cast<const __half2*>(&b));
  return *reinterpret_cast<const std::uint32_t*>(&product);
}
template <>
__device__ __forceinline__ std::uint32_t multiply2<BFloat16>(std::uint32_t a, std::uint32_t b) {
  const __nv_bfloat162 product =
      __hmul2(*reinterpret_cast<const __nv_bfloat162*>(&a), *reinterpret_cast<const __nv_bfloat162*>(&b));
  return *reinterpret_cast<const std::uint32_t*>(&product);
}

/// Whether blocks of columns have scales of their own, and not rows alone.
template <class View>
constexpr bool kHasScales = !std::is_same_v<View, TileView<Int8Row>>;

/// A lane's factors of a step.
struct StepOfFactors {
  std::uint32_t a[4][4];
};

/// A lane's weights of a step, and their scales as factors of T.
template <class T, class View>
struct StepOfWeights {
  static constexpr int kTiles = 4 / View::kSteps;
  typename View::Loaded tiles[kTiles];
  std::uint32_t upper[kTiles], lower[kTiles];

  template <class Stream>
  __device__ __forceinline__ void read(const View& view, const Stream& stream, int first) {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      tiles[i] = stream.read(first + i);
      if constexpr (kHasScales<View>) {
        const float2 scale = view.scales(tiles[i]);
        upper[i] = pack2<T>(scale.x, scale.x), lower[i] = pack2<T>(scale.y, scale.y);
      }
    }
  }
  /// Sixteen columns.
  template <int kQuarter>
  __device__ __forceinline__ void decode(const View& view, std::uint32_t column, std::uint32_t (&a)[4]) const {
    constexpr int kTile = kQuarter / View::kSteps;
    view.template factors<T, kQuarter % View::kSteps>(tiles[kTile], column, a);
    if constexpr (kHasScales<View>) {
      a[0] = multiply2<T>(a[0], upper[kTile]), a[2] = multiply2<T>(a[2], upper[kTile]);
      a[1] = multiply2<T>(a[1], lower[kTile]), a[3] = multiply2<T>(a[3], lower[kTile]);
    }
  }
};

/// Sums of sixteen rows of w on their way to y, 32 rows of x at a time: finished but for the residual where wgmma left
/// them, and turned round in shared memory, where lanes leave neighbouring rows of x for lanes that have neighbouring
/// rows of w.
template <class T, class View, int kApart>
class FusedFinish {
 public:
  static constexpr int kRows = 32;  ///< of x
  /// What a lane's results are finished with, fetched ahead of their sums.
  struct Ahead {
    uint4 residuals[kRows / 16];

    /// Until they are there. A wait for some loads is one for all that are under way, so the next ones come behind it.
    __device__ __forceinline__ void wait() const {
#pragma unroll
      for (const uint4& r : residuals) asm volatile("" ::"r"(r.x), "r"(r.y), "r"(r.z), "r"(r.w));
    }
  };

  /// `scratch` has pieces of 128 bytes for four rows of x each, kApart from one to the next.
  __device__ __forceinline__ FusedFinish(const View& weight, const Finish<T>& finish, int tile, int rows,
                                         std::uint32_t scratch, int lane)
      : finish_(finish), n_(weight.n), row_(tile * kTileRows + lane % 2 * 8), rows_(rows), lane_(lane) {
    has_row_ = row_ < n_;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = tile * kTileRows + lane / 4 + 8 * i;
      bias_[i] = finish.fetch_bias(row, row < n_);
      if constexpr (!kHasScales<View>) scales_[i] = row < n_ ? weight.row_scale(row) : 0.0F;
    }
    const auto place_of = [&](int row_of_x, int eight) {
      return scratch +
             static_cast<std::uint32_t>(row_of_x / 4 * kApart + row_of_x % 4 * 32 + (eight ^ row_of_x / 4 % 2) * 16);
    };
    to_ = place_of(lane / 16 * 8 + lane % 8, lane / 8 % 2);
    from_ = place_of(lane / 2, lane % 2);
  }

  /// For `count` rows of x from `first` on.
  __device__ __forceinline__ Ahead fetch(int first, int count) const {
    Ahead ahead;
#pragma unroll
    for (int i = 0; i < kRows / 16; ++i) {
      ahead.residuals[i] = finish_.fetch_residual(place_of(first, i), is_there(first, count, i));
    }
    return ahead;
  }
  /// Lane 4 g + t has of each eight rows of x the sums of 2t and 2t + 1, for rows g and g + 8 of w. All steps but the
  /// residual.
  template <int kWords>
  __device__ __forceinline__ void finish(const float (&sums)[2 * kWords], std::uint32_t (&words)[kWords]) const {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      const float scale = kHasScales<View> ? 1.0F : scales_[i % 2];
      words[i] = pack2<T>(sums[2 * i] * scale + bias_[i % 2], sums[2 * i + 1] * scale + bias_[i % 2]);
    }
    finish_.steps(words);
  }
  /// Behind that, kRows / 4 words.
  __device__ __forceinline__ void store(const std::uint32_t* words, int first, int count, const Ahead& ahead) const {
    constexpr int kFurther = 4 * kApart;
#pragma unroll
    for (int i = 0; i < kRows / 16; ++i) {
      store_matrices_transposed(to_ + i * kFurther, words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]);
    }
    __syncwarp();
    uint4 results[kRows / 16];
#pragma unroll
    for (int i = 0; i < kRows / 16; ++i) results[i] = load_shared(from_ + i * kFurther);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kRows / 16; ++i) {
      if (is_there(first, count, i)) finish_.store(results[i], ahead.residuals[i], place_of(first, i));
    }
  }

 private:
  __device__ __forceinline__ int row_of(int i) const { return 16 * i + lane_ / 2; }
  __device__ __forceinline__ bool is_there(int first, int count, int i) const {
    return has_row_ && row_of(i) < count && first + row_of(i) < rows_;
  }
  __device__ __forceinline__ std::int64_t place_of(int first, int i) const {
    return static_cast<std::int64_t>(first + row_of(i)) * n_ + row_;
  }

  const Finish<T>& finish_;
  int n_, row_, rows_, lane_;
  bool has_row_;
  float bias_[2], scales_[2];
  std::uint32_t to_, from_;
};

template <class Layout, class T, class Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    linear_fused_kernel(const __grid_constant__ FusedTask<Layout, T> task) {
  using View = TileView<Layout>;
  using Room = FusedRoom<View, Tile>;
  using Stream = typename Room::Stream;
  constexpr int kTiles = 4 / View::kSteps;       // of a step
  constexpr int kStepsAtOnce = kBatch / kTiles;  // of a batch
  constexpr int kEights = Tile::kColumns / 8;
  using Finisher = FusedFinish<T, View, Room::kScratchApart>;
  // Steps of x that are on their way: the thread that asks for them does not wait for the last ones' readers.
  constexpr int kAhead = Tile::kLineStages - 2;
  static_assert(kAhead <= kStepsAtOnce);
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
  // Each block of a cluster finishes its share of the rows of x, by eights.
  const auto first_eight_of = [](int block, int blocks) { return kEights * block / blocks; };
  const auto share_of = [&](int block, int blocks) {
    return first_eight_of(block + 1, blocks) - first_eight_of(block, blocks);
  };

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
      arrive_announcing(inbox_barrier, share_of(block_of_cluster(), split) * (split - 1) * Tile::kWarps * 512);
    }
  };
  fill_first();

  const std::uint32_t table = kept(column_of<T>(lane) + room - kReservedShared);
  while (true) {
    float sum[Tile::kColumns / 2];
    StepOfFactors factors;
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
        weights.template decode<2 * kHalf>(view, table, factors.a[2 * kHalf]);
        weights.template decode<2 * kHalf + 1>(view, table, factors.a[2 * kHalf + 1]);
        if (kHalf == 0) wait(full + 8 * stage_of(number), parity_of(number));
        begin_products();
        multiply<T, Tile::kColumns>(sum, factors.a[2 * kHalf], b + 4 * kHalf, kHalf > 0 || !is_first);
        multiply<T, Tile::kColumns>(sum, factors.a[2 * kHalf + 1], b + 4 * kHalf + 2, true);
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
      meet_cluster();  // all have done with their rings
      // Eights of a share follow each other, each block's sums of one beside those of the others.
      const int rank = block_of_cluster(), blocks = kept(split), share = share_of(rank, blocks);
      const std::uint32_t inbox = lines + static_cast<std::uint32_t>(warp * Room::eights_of(blocks) * 512 + lane * 16);
      const auto place_of_sums = [&](int eight, int block) {
        return inbox + static_cast<std::uint32_t>((eight * blocks + block) * 512);
      };
#pragma unroll
      for (int i = 0; i < kEights; ++i) {
        const int to = ((i + 1) * blocks - 1) / kEights;
        const std::uint32_t there = place_of_sums(i - first_eight_of(to, blocks), rank);
        if (to == rank) {
          store_shared(there, sum[4 * i], sum[4 * i + 1], sum[4 * i + 2], sum[4 * i + 3]);
        } else {
          send_there(in_block(there, to), sum[4 * i], sum[4 * i + 1], sum[4 * i + 2], sum[4 * i + 3],
                     in_block(inbox_barrier, to));
        }
      }
      wait_for_cluster(inbox_barrier, (taken_units - 1) % 2);
      column += first_eight_of(rank, blocks) * 8, rows = share * 8;
#pragma unroll
      for (int i = 0; i < kEights / 2; ++i) {
        if (i >= share) break;
        float(&four)[4] = *reinterpret_cast<float(*)[4]>(sum + 4 * i);
        four[0] = four[1] = four[2] = four[3] = 0;
#pragma unroll 1
        for (int block = 0; block < blocks; ++block) {
          const uint4 v = load_shared(place_of_sums(i, block));
          four[0] += __uint_as_float(v.x), four[1] += __uint_as_float(v.y);
          four[2] += __uint_as_float(v.z), four[3] += __uint_as_float(v.w);
        }
      }
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
  static int resident[kMostSplit + 1] = {};  // clusters of each size
  const auto split = static_cast<unsigned>(task.split);
  int& clusters = resident[split];
  if (clusters == 0) clusters = resident_clusters<kKernel>(launch, split, Tile::kThreads, kBytes);
  task.clusters = std::min(clusters, task.units);
  launch_in_clusters(launch, kKernel, dim3(static_cast<unsigned>(task.clusters) * split), split, Tile::kThreads, kBytes,
                     task);
}

/// `norm` may be null.
template <int kSteps, class T>
void arrange(const Launch& launch, const NormView<T>* norm, Tensor x, int first_row, int rows, void* out) {
  if (norm != nullptr) {
    const NormTask<T> task{norm->weight, norm->bias, norm->y + static_cast<std::int64_t>(first_row) * x.cols, 0};
    launch_overlapped(launch, arrange_normed_kernel<T, kSteps>, dim3(static_cast<unsigned>(rows)), kNormThreads, 0,
                      x.row<T>(first_row), rows, x.cols, task, static_cast<std::uint32_t*>(out));
    return;
  }
  const int steps = x.cols / kLineColumns;
  const std::int64_t threads = std::int64_t{2} * rows * steps;
  launch_overlapped(launch, arrange_kernel<kSteps>, dim3(static_cast<unsigned>((threads + 255) / 256)), 256, 0,
                    reinterpret_cast<const uint4*>(x.row<T>(first_row)), rows, steps, static_cast<uint4*>(out));
}

}  // namespace

template <class T, class Layout>
void linear_fused(const Launch& launch, std::byte* room, const NormView<T>* norm, Tensor x, int first_row, int rows,
                  int split, std::span<const Projection> projections) {
  static_assert(kMostFusedNorm <= kNormTurns * kNormStride && kFusedColumns % kNormColumns == 0);
  const std::size_t row_bytes = static_cast<std::size_t>(x.cols) * sizeof(T);
  const int most = static_cast<int>(kExpandBytes / row_bytes) / kWide * kWide;
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
    task.x = reinterpret_cast<const char*>(room);
    arrange<TileView<Layout>::kSteps>(launch, norm, x, first_row + done, task.rows, room);
    if (fused_tiling(parts, task.parts[0].weight.n, x.cols, task.rows, split).columns == kNarrow) {
      launch_fused<Layout, T, FusedTile<kNarrow, 4, 3>>(launch, task, parts);
    } else {
      launch_fused<Layout, T, FusedTile<kWide, 4, 2>>(launch, task, parts);
    }
  }
}

#define NIBBLE_FUSED(T, ...)                                                                                       \
  template void linear_fused<T, __VA_ARGS__>(const Launch&, std::byte*, const NormView<T>*, Tensor, int, int, int, \
                                             std::span<const Projection>);

}  // namespace nibble
