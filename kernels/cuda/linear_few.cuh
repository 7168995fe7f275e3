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

#include "kernels/cuda/exchange.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear_parts.cuh"
#include "kernels/cuda/norm_team.cuh"
#include "kernels/cuda/sums.cuh"
#include "kernels/cuda/weight_stream.cuh"

namespace nibble {
namespace {

template <class Layout, class T>
struct FewTask {
  const T* x;
  NormTask<T> norm;
  bool normed;
  int rows, k;
  int x_pitch;        ///< bytes of a row of x in shared memory, or of x itself
  int team_shift;     ///< log2 of the blocks of a team
  int sharers_shift;  ///< log2 of how many sharers divide the columns of a row of tiles among them
  int own_shift;      ///< log2 of how many of them, beside each other, a warp takes
  LinearPart<Layout, T> parts[kMostProjections];
};

/// Most bytes of x that a block has where a larger team can have less, without and with what is between rows.
constexpr int kMostOfX = 64 * 1024, kMostRoomOfX = kMostOfX + 16 * 128;

/// What a block has. Where x has room in shared memory it is a whole multiprocessor's; where it has not, there is none
/// for more than half of the warps on GPUs with 99 KiB either, and others have two blocks on a multiprocessor.
template <class View, class T, int kRows, bool kStaged, int kRowsDown>
struct FewBlock {
  static constexpr int kWarps = kStaged ? 16 : 8, kStages = kStaged ? 2 : 1, kDown = kRowsDown;
  static constexpr int kThreads = 32 * kWarps, kResident = kStaged ? 1 : 2;
  /// A table of pairs of 16-bit levels has gaps of 128 bytes, which pieces of sums fill.
  static constexpr bool kInGaps = View::kHasTable && sizeof(T) == 2;
  using SumsExchange = Exchange<kRows, kWarps, kDown, kInGaps ? 256 : 128>;
  using Stream = WeightStream<View, kStages, kDown>;
  static constexpr int kSums = kInGaps ? 128 : View::kHasTable ? kPairTableBytes : 0;
  static constexpr int kBarriers =
      (View::kHasTable ? kPairTableBytes : 0) + (kInGaps ? 0 : SumsExchange::kPieces * SumsExchange::kPieceBytes);
  static constexpr int kInbox = kBarriers + SumsExchange::kBarrierBytes;
  static constexpr int kRings = kBarriers + 128;
  static constexpr int kX = kRings + kWarps * Stream::kBytes;
  /// Places of LayerNorm that a warp has at most.
  static constexpr int kMostNorm = kMostOfX / (kTeamNormRows * kNormColumns * static_cast<int>(sizeof(T)) * kWarps);
  /// How many sharers a warp takes at most, as its sums of those before are in registers meanwhile.
  static constexpr int kMostOwnShift = (kRows > 8 && kDown > 1) || View::kPieces > 1 ? 1 : 2;
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
  int of_block;              ///< sharers of the block
  int first_sharer, sharer;  ///< the block's first, and the warp's first

  __device__ __forceinline__ FewSeat(const FewTask<Layout, T>& task, int block, int thread)
      : lane(thread % 32),
        warp(__shfl_sync(0xffffffffU, thread / 32, 0)),
        rank(block & ((1 << task.team_shift) - 1)),
        part(part_of(task.parts, block >> task.team_shift)) {
    const int team = (block >> task.team_shift) - part.first_block;
    tile = team * part.block + min(team, part.longer);
    tiles = part.block + (team < part.longer ? 1 : 0);
    const int block_shift = task.sharers_shift - task.team_shift, warps_shift = block_shift - task.own_shift;
    of_block = 1 << block_shift;
    groups = kWarps >> warps_shift, group = warp >> warps_shift;
    first_sharer = rank << block_shift, sharer = first_sharer + ((warp - (group << warps_shift)) << task.own_shift);
  }
};

/// What comes behind the tiles of a turn: sums are sent, added up and finished.
template <class Layout, class T, class Block>
class FewFinish {
 public:
  __device__ __forceinline__ FewFinish(const FewTask<Layout, T>& task, std::uint32_t room, int block, int thread)
      : task_(task),
        seat_(task, block, thread),
        exchange_(room + Block::kSums, room + Block::kBarriers, task.team_shift, task.sharers_shift - task.own_shift),
        rows_of_turn_(seat_.groups * Block::kDown) {}

  __device__ __forceinline__ const typename Block::SumsExchange& exchange() const { return exchange_; }

  /// Whether the team has rows of tiles in a turn.
  __device__ __forceinline__ bool has_rows(int turn) const { return turn * rows_of_turn_ < seat_.tiles; }
  /// How many the warp has, or none.
  __device__ __forceinline__ int rows_of_warp(int turn) const {
    if (seat_.group >= seat_.groups) return 0;
    return max(0, min(rows_of(turn) - seat_.group * Block::kDown, Block::kDown));
  }

  template <class Spread>
  __device__ __forceinline__ void send(int turn, const Spread (&sums)[Block::kDown]) const {
    const int rows = rows_of_warp(turn);
#pragma unroll
    for (int i = 0; i < Block::kDown; ++i) {
      if (i >= rows) break;
      exchange_.send(seat_.group * Block::kDown + i, seat_.sharer >> task_.own_shift, sums[i].d, seat_.lane);
    }
    exchange_.announce(rows, seat_.lane);
  }

  /// Eight lanes finish the results of a row of tiles and a pair of rows of x, a lane those of two columns. What the
  /// next ones are finished with is fetched before.
  __device__ __forceinline__ void finish(int turn) const {
    const int pairs = rows_of(turn) << exchange_.pairs_shift();
    int pair = 4 * seat_.warp + seat_.lane / kLanes;
    Ahead ahead = fetch(turn, pair, pairs);
    exchange_.wait(turn);
#pragma unroll 1
    while (pair < pairs) {
      const Result result = result_of(turn, pair);
      const auto& finish = seat_.part.finish;
      const float2 biases = finish.values_of(ahead.biases);
      const float4 sums = sums_of(pair);
      float v[4] = {sums.x * ahead.scale.x + biases.x, sums.z * ahead.scale.y + biases.y,
                    sums.y * ahead.scale.x + biases.x, sums.w * ahead.scale.y + biases.y};
      finish.steps(v);
      if (result.rows > 0) finish.store_two({v[0], v[1]}, ahead.residuals[0], result.place);
      if (result.rows > 1) finish.store_two({v[2], v[3]}, ahead.residuals[1], result.place + seat_.part.weight.n);
      pair += kApart;
      ahead = fetch(turn, pair, pairs);
    }
  }

 private:
  using Two = typename Finish<T>::Two;
  static constexpr int kLanes = kTileRows / 2, kApart = 4 * Block::kWarps;

  /// What the results of two columns and a pair of rows of x are finished with.
  struct Ahead {
    Two biases, residuals[2];
    float2 scale;
  };
  struct Result {
    int rows;  ///< as many as are there: of a pair, one or none may not be
    int column;
    std::int64_t place;  ///< in y, of the first
  };
  /// Rows of tiles of a turn.
  __device__ __forceinline__ int rows_of(int turn) const {
    return min(seat_.tiles - turn * rows_of_turn_, rows_of_turn_);
  }
  /// What the sets have of a pair, by twos, by fours and together: both rows of a column, then of the next one.
  __device__ __forceinline__ float4 sums_of(int pair) const {
    const int shift = exchange_.pairs_shift(), sets = 1 << (task_.sharers_shift - task_.own_shift);
    const auto of = [&](int set) {
      const uint4 sums = load_shared(exchange_.piece(pair >> shift, set, pair & ((1 << shift) - 1)) +
                                     static_cast<std::uint32_t>(seat_.lane % kLanes * 16));
      return float4{__uint_as_float(sums.x), __uint_as_float(sums.y), __uint_as_float(sums.z), __uint_as_float(sums.w)};
    };
    const auto plus = [](float4 a, float4 b) { return float4{a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; };
    float4 sums = plus(of(0), of(1));
    if (sets > 2) sums = plus(sums, plus(of(2), of(3)));
    if (sets > 4) sums = plus(sums, plus(plus(of(4), of(5)), plus(of(6), of(7))));
    return sums;
  }
  __device__ __forceinline__ Result result_of(int turn, int pair) const {
    const int shift = exchange_.pairs_shift(), row = 2 * ((seat_.rank << shift) + (pair & ((1 << shift) - 1)));
    const int tile = seat_.tile + turn * rows_of_turn_ + (pair >> shift);
    const int column = tile * kTileRows + seat_.lane % kLanes * 2;
    return {task_.rows - row, column, static_cast<std::int64_t>(row) * seat_.part.weight.n + column};
  }
  __device__ __forceinline__ Ahead fetch(int turn, int pair, int pairs) const {
    Ahead ahead{};
    if (pair >= pairs) return ahead;
    const Result result = result_of(turn, pair);
    const auto& finish = seat_.part.finish;
    ahead.biases = finish.two_biases_of(result.column);
    ahead.scale = {seat_.part.weight.row_scale(result.column), seat_.part.weight.row_scale(result.column + 1)};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (i < result.rows) ahead.residuals[i] = finish.two_residuals_of(result.place + i * seat_.part.weight.n);
    }
    return ahead;
  }

  const FewTask<Layout, T>& task_;
  FewSeat<Layout, T, Block::kWarps> seat_;
  typename Block::SumsExchange exchange_;
  int rows_of_turn_;
};

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
  const Share share(Share(col_tiles, task.sharers_shift, seat.sharer).first,
                    Share(col_tiles, task.sharers_shift, seat.sharer + (1 << task.own_shift) - 1).last);

  Inbox& inbox = *reinterpret_cast<Inbox*>(shared + Block::kInbox);
  if (kStaged && task.normed && threadIdx.x == 0) {
    inbox.open();
    inbox.announce(static_cast<std::uint32_t>(task.rows * (task.k / kNormColumns) * static_cast<int>(sizeof(Moments))));
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
  const int first = Share(col_tiles, task.sharers_shift, seat.first_sharer).first;
  const RowsOfX<T, kRows, kStaged> x(
      kStaged ? shared + Block::kX : reinterpret_cast<const char*>(task.x),
      (share.first - first) * kStep + lane % 4 * (4 * View::kSteps) * static_cast<int>(sizeof(T)), lane, task.rows,
      task.x_pitch);

  const int last = Share(col_tiles, task.sharers_shift, seat.first_sharer + seat.of_block - 1).last;
  const auto place_of_x = [&](int row, int col) {
    return shared + Block::kX + row * task.x_pitch + (col - first * kCols) * static_cast<int>(sizeof(T));
  };
  TeamNorm<T, kWarps, Block::kMostNorm> norm(task.rows, task.k, first * kCols, (last - first) * kCols, task.norm);
  if (kStaged && task.normed) norm.fetch();

  wait_for_previous_kernel();
  if (kStaged && task.normed) {
    norm.load(task.x);
    after_row().exchange().wait_for_team();  // before which the compiler would rather ask for the rest than for x
    while_x_comes();
    Moments* const moments = reinterpret_cast<Moments*>(shared + Block::kX + task.rows * task.x_pitch);
    norm.tell(inbox, moments);
    inbox.wait_for_all();
    const int team = static_cast<int>(blockIdx.x >> task.team_shift);
    const int last_team = static_cast<int>(gridDim.x >> task.team_shift) - 1;
    norm.finish(moments, [&](int row, int col, const float(&v)[8]) {
      store8(reinterpret_cast<T*>(place_of_x(row, col)), v);
      if (team == min(row, last_team)) store8(task.norm.y + static_cast<std::int64_t>(row) * task.k + col, v);
    });
  } else {
    if constexpr (kStaged) {
      send_columns<kWarps>(task.x + first * kCols, task.rows, task.k, (last - first) * kCols,
                           shared_address(place_of_x(0, first * kCols)), task.x_pitch);
    }
    while_x_comes();
    wait_for_copies<Block::kStages - 1>();
    after_row().exchange().wait_for_team();
  }
  __syncthreads();

  const int each = share.count() >> task.own_shift;
#pragma unroll 1
  for (int turn = 0;;) {
    typename Sums<T, kRows, View::kSteps>::Spread whole[kDown];
    if (after_row().rows_of_warp(turn) > 0) {
      Gathered<typename Sums<T, kRows, View::kSteps>::Spread, kDown, Block::kMostOwnShift> gathered;
#pragma unroll 1
      for (int sharer = 0; sharer < 1 << task.own_shift; ++sharer) {
        Sums<T, kRows, View::kSteps> sums[kDown];
        add_products<T>(sums, view, stream, x, sharer * each, (sharer + 1) * each, kStep, column);
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
