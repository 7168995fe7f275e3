// Many rows of x: weights are decoded on their way into the tensor cores of sm_90a.
//
// A block computes kRows rows of w times kColumns rows of x. Its warpgroups load their own weights from memory into
// registers, a turn of steps ahead, turn them into factors there and multiply them, as the larger operand, with lines
// of x in shared memory, which one thread keeps coming. A step is 64 columns.
//
//   x -> arranged in lines -> ring in shared memory \
//   w -> registers -> factors of T ------------------ wgmma -> fp32 sums -> (other blocks' of the cluster) -> finish
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

namespace nibble {
namespace {

/// Steps that columns are divided by: a part has a multiple of them.
constexpr int kDividedSteps = 8;

/// Tiles of a kernel.
template <int kColumns_, int kGroups_, int kSets_, int kTurn_>
struct FusedTile {
  static constexpr int kColumns = kColumns_;  ///< rows of x
  static constexpr int kGroups = kGroups_;    ///< warpgroups
  static constexpr int kSets = kSets_;        ///< times 64 rows of w that each has
  static constexpr int kTurn = kTurn_;        ///< steps whose weights are loaded together
  static constexpr int kRows = 64 * kGroups * kSets;
  static constexpr int kThreads = 128 * kGroups;
  static constexpr int kStageBytes = kColumns * kLineBytes;
  static constexpr int kStages = std::min(8, (96 << 10) / kStageBytes);
  static constexpr int kPiece = std::min(64, kColumns);  ///< rows of x whose sums there is room for
  static constexpr int kPitch = kRows + 4;
  static constexpr int kSumsBytes = kPiece * kPitch * 4;
  static constexpr int kBarriers = 2 * kStages + 2;
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
  int split;         ///< blocks that divide them
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
    to[(4 * half + p) ^ row % 8] = {words[p][0], words[p][1], words[p][2], words[p][3]};
  }
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

/// A lane's factors of a step: sixteen columns each.
struct StepOfFactors {
  std::uint32_t a[4][4];

  /// Keeps the registers as they are until here: products that are under way read them.
  __device__ __forceinline__ void hold() const {
#pragma unroll
    for (int i = 0; i < 4; ++i) asm volatile("" ::"r"(a[i][0]), "r"(a[i][1]), "r"(a[i][2]), "r"(a[i][3]) : "memory");
  }
};

/// Whether blocks of columns have scales of their own, and not rows alone.
template <class View>
constexpr bool kHasScales = !std::is_same_v<View, TileView<Int8Row>>;

/// Factors of one tile, its scales rounded to T and multiplied in.
template <class T, int kFirst, class View, int Step = 0>
__device__ __forceinline__ void decode_tile(const View& view, const typename View::Loaded& loaded, std::uint32_t column,
                                            std::uint32_t upper, std::uint32_t lower, StepOfFactors& factors) {
  std::uint32_t(&a)[4] = factors.a[kFirst + Step];
  view.template factors<T, Step>(loaded, column, a);
  if constexpr (kHasScales<View>) {
    a[0] = multiply2<T>(a[0], upper), a[2] = multiply2<T>(a[2], upper);
    a[1] = multiply2<T>(a[1], lower), a[3] = multiply2<T>(a[3], lower);
  }
  if constexpr (Step + 1 < View::kSteps) {
    decode_tile<T, kFirst, View, Step + 1>(view, loaded, column, upper, lower, factors);
  }
}

__device__ __forceinline__ void add_eight(float (&v)[8], const uint4& a, const uint4& b) {
  v[0] += __uint_as_float(a.x), v[1] += __uint_as_float(a.y), v[2] += __uint_as_float(a.z);
  v[3] += __uint_as_float(a.w), v[4] += __uint_as_float(b.x), v[5] += __uint_as_float(b.y);
  v[6] += __uint_as_float(b.z), v[7] += __uint_as_float(b.w);
}

template <class Layout, class T, class Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    linear_fused_kernel(const __grid_constant__ FusedTask<Layout, T> task) {
  using View = TileView<Layout>;
  constexpr int kTiles = 4 / View::kSteps;  // of a step
  constexpr int kSets = Tile::kSets, kTurn = Tile::kTurn;
  static_assert(kDividedSteps % kTurn == 0 && kTurn * kSets % 2 == 0);
  extern __shared__ __align__(1024) char shared[];
  char* const ring = shared + (View::kHasTable ? kPairTableBytes : 0);
  float* const sums = reinterpret_cast<float*>(ring + Tile::kStages * Tile::kStageBytes);
  const std::uint32_t lines = shared_address(ring);
  const std::uint32_t full = shared_address(sums) + Tile::kSumsBytes, empty = full + 8 * Tile::kStages;
  const std::uint32_t ready = empty + 8 * Tile::kStages, free = ready + 8;

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int rank = static_cast<int>(blockIdx.x) % task.split, clusters = static_cast<int>(gridDim.x) / task.split;
  const int first = task.steps / kDividedSteps * rank / task.split * kDividedSteps;
  const int last = task.steps / kDividedSteps * (rank + 1) / task.split * kDividedSteps;
  int unit = static_cast<int>(blockIdx.x) / task.split;

  struct Place {
    int part, row, column;  ///< first row of w and of x
  };
  const auto place_of = [&](int u) {
    const int part = u < task.parts[1].first_unit ? 0 : u < task.parts[2].first_unit ? 1 : 2;
    u -= task.parts[part].first_unit;
    return Place{part, u / task.column_tiles * Tile::kRows, u % task.column_tiles * Tile::kColumns};
  };

  // A lane's weights of a turn. Those of the next one are asked for when all of this one's have come, and not sooner:
  // a wait for some is a wait for all that are under way.
  struct Weights {
    typename View::Loaded tiles[kTurn][kSets][kTiles];
  };
  Weights next;
  typename View::Place weights[kSets];
  const View* view = nullptr;
  const auto load = [&](int step) {
#pragma unroll
    for (int turn = 0; turn < kTurn; ++turn) {
#pragma unroll
      for (int set = 0; set < kSets; ++set) {
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
          next.tiles[turn][set][i] = view->load(weights[set], 0, (step + turn) * kTiles + i);
        }
      }
    }
  };
  const auto begin = [&](const Place& place) {
    view = &task.parts[place.part].weight;
#pragma unroll
    for (int set = 0; set < kSets; ++set) {
      const int tile = place.row / kTileRows + (warp / 4 * kSets + set) * 4 + warp % 4;
      weights[set] = view->place(min(tile, view->n / kTileRows - 1), lane);
    }
    load(first);
  };
  Place place = place_of(unit);
  begin(place);

  if constexpr (View::kHasTable) {
    if (threadIdx.x < 256) fill_pair_table<T>(task.parts[0].weight.levels, shared);
  }
  if (threadIdx.x == 0) {
    for (int i = 0; i < Tile::kStages; ++i) {
      make_barrier(full + 8 * i, 1), make_barrier(empty + 8 * i, Tile::kThreads / 32);
    }
    make_barrier(ready, task.split), make_barrier(free, task.split);
    publish_barriers();
  }
  let_next_kernel_start();
  __syncthreads();
  if (task.split > 1) meet_cluster();
  wait_for_previous_kernel();

  // Steps of x, in turn into the stages of the ring: the thread that fills them is kBehind stages behind the warps,
  // which have most likely done with that one.
  struct Cursor {
    int stage = 0, parity = 0;
    __device__ __forceinline__ void advance() {
      if (++stage == Tile::kStages) stage = 0, parity ^= 1;
    }
  };
  constexpr int kBehind = 2;
  Cursor filled, at;
  int filled_unit = unit, left = 0, bytes = 0;
  const char* line = nullptr;
  const auto fill = [&] {
    if (left == 0) {
      if (filled_unit >= task.units) return;
      const int column = place_of(filled_unit).column;
      filled_unit += clusters;
      left = last - first;
      bytes = min(Tile::kColumns, task.rows - column) * kLineBytes;
      line = task.x + (static_cast<std::int64_t>(first) * task.rows + column) * kLineBytes;
    }
    wait(empty + 8 * filled.stage, filled.parity ^ 1);
    arrive_announcing(full + 8 * filled.stage, bytes);
    copy_bulk(lines + filled.stage * Tile::kStageBytes, line, bytes, full + 8 * filled.stage);
    filled.advance();
    line += task.rows * kLineBytes;
    --left;
  };
  if (threadIdx.x == 0) {
    for (int i = 0; i < Tile::kStages - kBehind; ++i) fill();
  }

  const std::uint32_t table = kept(column_of<T>(lane) + shared_address(shared) - kReservedShared);
  int met = 0;  // parity of the cluster's barriers
  bool shares = false;
  while (true) {
    float sum[kSets][Tile::kColumns / 2];
    StepOfFactors factors[2];
    int before = -1;  // the stage whose products may be under way
    const auto multiply_step = [&]<int kNumber>(std::integral_constant<int, kNumber>, const Weights& loaded, int step) {
      constexpr int kSet = kNumber % kSets, kNow = kNumber % 2;
      StepOfFactors& now = factors[kNow];
      const auto& tiles = loaded.tiles[kNumber / kSets][kSet];
      const auto decode = [&]<int kPart>(std::integral_constant<int, kPart>) {
        std::uint32_t upper = 0, lower = 0;
        if constexpr (kHasScales<View>) {
          const float2 scale = view->scales(tiles[kPart]);
          upper = pack2<T>(scale.x, scale.x), lower = pack2<T>(scale.y, scale.y);
        }
        decode_tile<T, kPart * View::kSteps>(*view, tiles[kPart], table, upper, lower, now);
      };
      decode(std::integral_constant<int, 0>{});
      if constexpr (kTiles == 2) decode(std::integral_constant<int, 1>{});
      if (kSet == 0) wait(full + 8 * at.stage, at.parity);
      const std::uint64_t b = describe_lines(lines + at.stage * Tile::kStageBytes);
      begin_products();
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        multiply<T, Tile::kColumns>(sum[kSet], now.a[i], b + 2 * i, step != first || i > 0);
      }
      commit_products();
      wait_for_products<1>();

      if (kSet == 0) {
        if (before >= 0 && lane == 0) arrive(empty + 8 * before);
        if (threadIdx.x == 0) fill();
      }
      if (kSet == kSets - 1) {
        before = at.stage;
        at.advance();
      }
    };
#pragma unroll 1
    for (int step = first; step < last; step += kTurn) {
      const Weights now = next;
      if (step + kTurn < last) load(step + kTurn);
      const auto turn = [&]<int... kNumber>(std::integer_sequence<int, kNumber...>) {
        (multiply_step(std::integral_constant<int, kNumber>{}, now, step + kNumber / kSets), ...);
      };
      turn(std::make_integer_sequence<int, kTurn * kSets>{});
    }
    wait_for_products<0>();

    if (lane == 0) arrive(empty + 8 * before);

    // The next unit's first weights are on their way while this one is finished.
    const Place done = place;
    unit += clusters;
    if (unit < task.units) {
      place = place_of(unit);
      begin(place);
    }
    const auto& part = task.parts[done.part];
    const int n = part.weight.n;
    constexpr int kEights = Tile::kRows / 8, kItems = Tile::kPiece * kEights;
    constexpr int kItemsEach = kItems / Tile::kThreads, kAtOnce = 2;
    static_assert(kItemsEach % kAtOnce == 0);
    // A thread's results are of the same eight rows of w.
    static_assert(Tile::kThreads % kEights == 0);
    const int share = kItems / task.split;
    const int row = static_cast<int>(threadIdx.x) % kEights * 8;
    const bool has_row = done.row + row < n;
    float scales[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) scales[i] = has_row ? part.weight.row_scale(done.row + row + i) : 0.0F;
    const auto bias = part.finish.fetch_bias(done.row + row, has_row);
#pragma unroll 1
    for (int piece = 0; piece < Tile::kColumns / Tile::kPiece; ++piece) {
      if (done.column + piece * Tile::kPiece >= task.rows) break;
      if (shares) wait_for_cluster(free, met ^ 1);
      const auto leave = [&]<int kPiece>(std::integral_constant<int, kPiece>) {
#pragma unroll
        for (int set = 0; set < kSets; ++set) {
          float* const to =
              sums + lane % 4 * 2 * Tile::kPitch + (warp / 4 * kSets + set) * 64 + warp % 4 * 16 + lane / 4;
#pragma unroll
          for (int i = 0; i < Tile::kPiece / 2; ++i) {
            to[(i / 4 * 8 + i % 2) * Tile::kPitch + i / 2 % 2 * 8] = sum[set][kPiece * (Tile::kPiece / 2) + i];
          }
        }
      };
      const auto choose = [&]<int... kPiece>(std::integer_sequence<int, kPiece...>) {
        ((piece == kPiece ? leave(std::integral_constant<int, kPiece>{}) : void()), ...);
      };
      choose(std::make_integer_sequence<int, Tile::kColumns / Tile::kPiece>{});
      const auto column_of_item = [&](int i) {
        return (rank * share + i * Tile::kThreads + static_cast<int>(threadIdx.x)) / kEights;
      };
      const auto place_of_item = [&](int i) {
        return static_cast<std::int64_t>(done.column + piece * Tile::kPiece + column_of_item(i)) * n + done.row + row;
      };
      const auto is_there = [&](int i) {
        return has_row && i * Tile::kThreads + static_cast<int>(threadIdx.x) < share &&
               done.column + piece * Tile::kPiece + column_of_item(i) < task.rows;
      };
      meet(1, Tile::kThreads);
      if (task.split > 1) {
        shares = true;
        if (threadIdx.x < task.split) arrive_there(in_block(ready, static_cast<int>(threadIdx.x)));
        wait_for_cluster(ready, met);
        met ^= 1;
      }
#pragma unroll 1
      for (int begin = 0; begin < kItemsEach; begin += kAtOnce) {
        uint4 residuals[kAtOnce];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          residuals[i] = part.finish.fetch_residual(place_of_item(begin + i), is_there(begin + i));
        }
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          if (!is_there(begin + i)) continue;
          const std::uint32_t from = shared_address(sums + column_of_item(begin + i) * Tile::kPitch + row);
          float v[8] = {};
          if (task.split == 1) {
            add_eight(v, load_shared(from), load_shared(from + 16));
          } else {
#pragma unroll 4
            for (int block = 0; block < task.split; ++block) {
              const std::uint32_t there = in_block(from, block);
              add_eight(v, load_there(there), load_there(there + 16));
            }
          }
#pragma unroll
          for (int j = 0; j < 8; ++j) v[j] *= scales[j];
          part.finish.eight(v, bias, residuals[i], place_of_item(begin + i));
        }
      }
      meet(1, Tile::kThreads);
      if (task.split > 1 && threadIdx.x < task.split) arrive_there(in_block(free, static_cast<int>(threadIdx.x)));
    }
    if (unit >= task.units) break;
  }
  if (shares) wait_for_cluster(free, met ^ 1);
}

template <class View, class Tile>
constexpr int kFusedBytes = (View::kHasTable ? kPairTableBytes : 0) + Tile::kStages* Tile::kStageBytes
                            + Tile::kSumsBytes + 8 * Tile::kBarriers;

template <class Layout, class T, class Tile>
void launch_fused(const Launch& launch, FusedTask<Layout, T>& task, int parts) {
  constexpr auto kKernel = linear_fused_kernel<Layout, T, Tile>;
  constexpr int kBytes = kFusedBytes<TileView<Layout>, Tile>;
  allow_shared_memory<kKernel>();
  task.column_tiles = (task.rows + Tile::kColumns - 1) / Tile::kColumns;
  task.units = 0;
  for (int i = 0; i < kMostProjections; ++i) {
    task.parts[i].first_unit = task.units;
    if (i < parts) task.units += (task.parts[i].weight.n + Tile::kRows - 1) / Tile::kRows * task.column_tiles;
  }
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {static_cast<unsigned>(task.split), 1, 1};
  cudaLaunchConfig_t config{};
  config.blockDim = dim3(Tile::kThreads);
  config.dynamicSmemBytes = kBytes;
  config.stream = launch.stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  static int resident[9] = {};  // clusters of each size
  int& clusters = resident[task.split];
  if (clusters == 0) {
    config.gridDim = dim3(static_cast<unsigned>(launch.processors / task.split * task.split));
    check(cudaOccupancyMaxActiveClusters(&clusters, kKernel, &config), "asking for occupancy");
  }
  config.gridDim = dim3(static_cast<unsigned>(std::min(clusters, task.units) * task.split));
  check(cudaLaunchKernelEx(&config, kKernel, task), "launching a kernel");
}

template <int kSteps>
void arrange(const Launch& launch, const void* x, int rows, int steps, void* out) {
  const std::int64_t threads = std::int64_t{2} * rows * steps;
  launch_overlapped(launch, arrange_kernel<kSteps>, dim3(static_cast<unsigned>((threads + 255) / 256)), 256, 0,
                    static_cast<const uint4*>(x), rows, steps, static_cast<uint4*>(out));
}

}  // namespace

template <class T, class Layout>
void linear_fused(const Launch& launch, std::byte* room, Tensor x, int first_row, int rows, int split,
                  std::span<const Projection> projections) {
  const int k = x.cols, steps = k / kLineColumns;
  const int most = static_cast<int>(kExpandBytes / (static_cast<std::size_t>(steps) * kLineBytes)) / 128 * 128;
  const auto parts = static_cast<int>(projections.size());
  for (int done = 0; done < rows; done += most) {
    FusedTask<Layout, T> task{};
    for (int i = 0; i < parts; ++i) {
      task.parts[i].weight = TileView<Layout>(std::get<Layout>(projections[i].linear.weight));
      task.parts[i].finish = Finish<T>(projections[i], first_row + done);
    }
    task.rows = std::min(most, rows - done);
    task.steps = steps;
    task.split = split;
    task.x = reinterpret_cast<const char*>(room);
    arrange<TileView<Layout>::kSteps>(launch, x.row<T>(first_row + done), task.rows, steps, room);
    // Registers for as many weights under way as there is room for beside the sums.
    if (task.rows <= 32) {
      launch_fused<Layout, T, FusedTile<32, 2, 1, 8>>(launch, task, parts);
    } else if (task.rows <= 64) {
      launch_fused<Layout, T, FusedTile<64, 2, 1, 8>>(launch, task, parts);
    } else if (task.rows <= 256) {
      launch_fused<Layout, T, FusedTile<128, 2, 1, 4>>(launch, task, parts);
    } else {
      launch_fused<Layout, T, FusedTile<128, 2, 2, 2>>(launch, task, parts);
    }
  }
}

#define NIBBLE_FUSED(T, ...)                                                                   \
  template void linear_fused<T, __VA_ARGS__>(const Launch&, std::byte*, Tensor, int, int, int, \
                                             std::span<const Projection>);

}  // namespace nibble
