// Attention of segments of several rows on the tensor cores of sm_90a, as attend_tiles.cuh has it: a running softmax,
// probabilities rounded to T once.
//
// A block, which is one warpgroup, has 64 queries of a head. Keys and values come a tile at a time, as lines
// (hopper.cuh), into stages: those of the segment's own rows from where they were made, and the block copies its own 64
// to the cache. While probabilities of a tile's scores are made, the values of the tile before it are multiplied, and
// other blocks of the multiprocessor go on.
//
//   queries, keys -> scores -> probabilities of T in registers \
//   values ---------------------------------------------------- mix
#include "kernels/cuda/attend_wide.h"
#include "kernels/cuda/hopper.cuh"

namespace nibble {
namespace {

constexpr int kWideThreads = 128, kWideQueries = 64, kWideKeys = 64;
constexpr int kKeyStages = 2, kValueStages = 3;  // values are multiplied until the tile behind them is there

/// Rows of a head in lines: [64 columns][rows][kLineBytes], the last columns as many as there are.
template <int kHeadDim, int kRows>
struct HeadLines {
  static constexpr int kPieces = kHeadDim / 8;  // of 16 bytes, of a row
  static constexpr int kApart = kRows * kLineBytes;
  static constexpr int kBytes = (kHeadDim + kLineColumns - 1) / kLineColumns * kApart;

  // A thread has the same piece of every so many rows, whose places in shared memory are a constant apart.
  static constexpr int kLanes = static_cast<int>(std::bit_ceil(static_cast<unsigned>(kPieces)));
  static constexpr int kAtOnce = kWideThreads / kLanes;
  static_assert(kAtOnce % 8 == 0 && kRows % kAtOnce == 0);

  __device__ __forceinline__ static int row_of(unsigned thread) { return static_cast<int>(thread) / kLanes; }
  __device__ __forceinline__ static int piece_of(unsigned thread) { return static_cast<int>(thread) % kLanes; }
  __device__ __forceinline__ static std::uint32_t place_of(std::uint32_t lines, int row, int piece) {
    return lines + piece / 8 * kApart + row * kLineBytes + (piece ^ row) % 8 * 16;
  }

  /// Sends for all rows of T, which stand `pitch` apart.
  template <class T>
  __device__ __forceinline__ static void fetch(std::uint32_t lines, const T* first, std::int64_t pitch) {
    const int row = row_of(threadIdx.x), piece = piece_of(threadIdx.x);
    if (piece >= kPieces) return;
    first += row * pitch + piece * 8;
#pragma unroll
    for (int i = 0; i < kRows; i += kAtOnce, first += kAtOnce * pitch) {
      copy_async<16>(place_of(lines, row, piece) + i * kLineBytes, first);
    }
  }
  /// Sends for `count` rows, of which `place(row)` is the beginning; the others are zeros.
  template <class Place>
  __device__ __forceinline__ static void fetch_some(std::uint32_t lines, int count, Place&& place) {
    const int piece = piece_of(threadIdx.x);
    if (piece >= kPieces) return;
#pragma unroll 1
    for (int row = row_of(threadIdx.x); row < kRows; row += kAtOnce) {
      copy_async(place_of(lines, row, piece), place(min(row, count - 1)) + piece * 8, row < count);
    }
  }
  /// Copies `count` rows to where they stand behind each other.
  template <class T>
  __device__ __forceinline__ static void copy(const T* first, std::int64_t pitch, int count, T* out) {
    const int piece = piece_of(threadIdx.x);
    if (piece >= kPieces) return;
#pragma unroll 4
    for (int row = row_of(threadIdx.x); row < min(kRows, count); row += kAtOnce) {
      *reinterpret_cast<uint4*>(out + row * kHeadDim + piece * 8) = load_once(first + row * pitch + piece * 8);
    }
  }
  /// Columns 16 i to 16 i + 15 of what begins with these lines.
  __device__ __forceinline__ static std::uint64_t columns(std::uint32_t lines, int i) {
    return describe_lines(lines + i / 4 * kApart) + i % 4 * 2;
  }
  /// Rows 16 i to 16 i + 15, turned.
  __device__ __forceinline__ static std::uint64_t rows(std::uint32_t lines, int i) {
    return describe_lines(lines + i * 16 * kLineBytes, kApart);
  }
};

/// Results of products are there: nothing that uses them is moved before.
template <int N>
__device__ __forceinline__ void have(float (&values)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(values[i]));
}

template <class T, int kHeadDim>
__global__ void __launch_bounds__(kWideThreads) attend_wide_kernel(const __grid_constant__ AttendTask<T> task) {
  using Queries = HeadLines<kHeadDim, kWideQueries>;
  using Keys = HeadLines<kHeadDim, kWideKeys>;
  constexpr int kKeys = kWideKeys;
  extern __shared__ __align__(1024) char shared[];
  const std::uint32_t queries = shared_address(shared);
  const std::uint32_t keys_lines = queries + Queries::kBytes, values_lines = keys_lines + kKeyStages * Keys::kBytes;
  let_next_kernel_start();
  wait_for_previous_kernel();
  const Segment segment = task.batch.segments[blockIdx.z];
  // The last queries see the most keys and come first, those of all heads.
  const int tiles = (segment.rows + kWideQueries - 1) / kWideQueries;
  const int tile = tiles - 1 - static_cast<int>(blockIdx.y);
  if (segment.rows == 1 || tile < 0) return;
  const int head = blockIdx.x;
  const int warp = __shfl_sync(0xffffffffU, static_cast<int>(threadIdx.x / 32), 0);
  const int lane = threadIdx.x % 32;
  const int first_query = tile * kWideQueries;
  const int keys = segment.past + min(first_query + kWideQueries, segment.rows);
  const int key_tiles = (keys + kKeys - 1) / kKeys;
  const std::int64_t place = task.cached(segment.sequence, head);
  const std::int64_t pitch = std::int64_t{task.heads} * kHeadDim;

  // Tile `number` of keys, or values: `past` of its rows were there before.
  const auto fetch = [&](std::uint32_t lines, const T* cached, const T* made, int number) {
    const int begin = number * kKeys, past = segment.past - begin;
    if (begin >= keys) return;
    cached += place + std::int64_t{begin} * kHeadDim, made += task.row(segment.first_row - past, head);
    if (begin + kKeys <= keys && (past <= 0 || past >= kKeys)) {
      Keys::fetch(lines, past > 0 ? cached : made, past > 0 ? kHeadDim : pitch);
    } else {
      Keys::fetch_some(lines, keys - begin,
                       [&](int row) { return row < past ? cached + row * kHeadDim : made + row * pitch; });
    }
  };
  const auto keys_of = [&](int number) { return keys_lines + number % kKeyStages * Keys::kBytes; };
  const auto values_of = [&](int number) { return values_lines + number % kValueStages * Keys::kBytes; };
  const auto fetch_behind = [&](int number) {
    fetch(keys_of(number + 1), task.keys, task.k, number + 1);
    fetch(values_of(number), task.values, task.v, number);
    commit_copies();
  };
  // What was sent for is there for all, and what had come before is done with. Returns whether anybody's `vote` is
  // true.
  const auto meet = [&](bool vote) {
    wait_for_copies<0>();
    let_copies_follow();
    return __syncthreads_or(vote) != 0;
  };
  const int own_rows = segment.rows - first_query;
  const std::int64_t own = task.row(segment.first_row + first_query, head);
  Queries::fetch_some(queries, own_rows, [&](int row) { return task.q + own + row * pitch; });
  fetch(keys_of(0), task.keys, task.k, 0);
  commit_copies();
  const std::int64_t own_cached = place + std::int64_t{segment.past + first_query} * kHeadDim;
  Queries::copy(task.k + own, pitch, own_rows, task.keys + own_cached);
  Queries::copy(task.v + own, pitch, own_rows, task.values + own_cached);

  float scores[kKeys / 2];
  const auto score = [&](int number) {
    const std::uint32_t lines = keys_of(number);
    begin_products();
#pragma unroll
    for (int i = 0; i < kHeadDim / 16; ++i) {
      multiply_lines<T, kKeys>(scores, Queries::columns(queries, i), Keys::columns(lines, i), i > 0);
    }
    commit_products();
  };
  float mix[kHeadDim / 2] = {};
  std::uint32_t probabilities[kKeys / 16][4];
  const auto mix_values = [&](int number) {
    const std::uint32_t lines = values_of(number);
    begin_products();
#pragma unroll
    for (int i = 0; i < kKeys / 16; ++i) {
      multiply_turned<T, kHeadDim>(mix, probabilities[i], Keys::rows(lines, i), true);
    }
    commit_products();
  };

  // Keys that the first of the warp's rows sees; row g of its rows g and g + 8 sees lane / 4 more.
  const int warp_query = first_query + warp * 16, seen_by_all = segment.past + warp_query + 1;
  float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {}, shrink[2];
  const auto soften = [&](int number) {
    const int begin = number * kKeys;
    if (begin + kKeys > seen_by_all) {
      const int seen = seen_by_all + lane / 4 - begin - lane % 4 * 2;
#pragma unroll
      for (int i = 0; i < kKeys / 2; ++i) {
        if (i / 4 * 8 + i % 2 >= seen + i % 4 / 2 * 8) scores[i] = -INFINITY;
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float larger = largest[half];
#pragma unroll
      for (int i = 2 * half; i < kKeys / 2; i += 4) larger = fmaxf(larger, fmaxf(scores[i], scores[i + 1]));
      larger = fmaxf(larger, __shfl_xor_sync(0xffffffffU, larger, 1));
      larger = fmaxf(larger, __shfl_xor_sync(0xffffffffU, larger, 2));
      const float power = larger * kLog2E;  // every row sees the first key, so it is finite
      shrink[half] = power_of_two(largest[half] * kLog2E - power);
      largest[half] = larger;
      float added = 0;
#pragma unroll
      for (int i = 2 * half; i < kKeys / 2; i += 4) {
        added += scores[i] = power_of_two(__fmaf_rn(scores[i], kLog2E, -power));
        added += scores[i + 1] = power_of_two(__fmaf_rn(scores[i + 1], kLog2E, -power));
      }
      sum[half] = sum[half] * shrink[half] + added;
    }
  };
  // The mix of the tiles before is there; it shrinks if anybody's largest score has grown, which in most tiles none
  // has. Exponentials of the last tile's scores become probabilities of T. The wait comes behind a barrier, as else the
  // compiler moves it before the exponentials.
  const auto meet_and_round = [&] {
    const bool shrinks = meet(shrink[0] != 1 || shrink[1] != 1);
    wait_for_products<0>(), have(mix);
    if (shrinks) {
#pragma unroll
      for (int i = 0; i < kHeadDim / 2; ++i) mix[i] *= shrink[i % 4 / 2];
    }
#pragma unroll
    for (int i = 0; i < kKeys / 4; ++i) {
      probabilities[i / 4][i % 4] = pack2<T>(scores[2 * i], scores[2 * i + 1]);
    }
  };

  meet(false);
  score(0);
  fetch_behind(0);
  wait_for_products<0>(), have(scores);
  soften(0), have(scores);
#pragma unroll 1
  for (int number = 1; number < key_tiles; ++number) {
    meet_and_round();
    score(number), mix_values(number - 1);
    fetch_behind(number);
    wait_for_products<1>(), have(scores);
    soften(number), have(scores);
  }
  meet_and_round();
  mix_values(key_tiles - 1);
  wait_for_products<0>(), have(mix);

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float whole = sum[half];
    whole += __shfl_xor_sync(0xffffffffU, whole, 1);
    whole += __shfl_xor_sync(0xffffffffU, whole, 2);
    const int row = warp_query + lane / 4 + half * 8;
    if (row >= segment.rows) continue;
    T* const y = task.y + task.row(segment.first_row + row, head) + lane % 4 * 2;
    const float scale = 1.0F / whole;
#pragma unroll
    for (int i = 2 * half; i < kHeadDim / 2; i += 4) {
      *reinterpret_cast<std::uint32_t*>(y + i / 4 * 8) = pack2<T>(mix[i] * scale, mix[i + 1] * scale);
    }
  }
}

template <class T, int kHeadDim>
void launch_wide(const Launch& launch, const BatchShape& shape, const AttendTask<T>& task) {
  constexpr auto kKernel = attend_wide_kernel<T, kHeadDim>;
  constexpr int kShared =
      HeadLines<kHeadDim, kWideQueries>::kBytes + (kKeyStages + kValueStages) * HeadLines<kHeadDim, kWideKeys>::kBytes;
  allow_shared_memory<kKernel>();
  const dim3 grid(static_cast<unsigned>(task.heads),
                  static_cast<unsigned>((shape.longest + kWideQueries - 1) / kWideQueries),
                  static_cast<unsigned>(shape.segments));
  launch_overlapped(launch, kKernel, grid, kWideThreads, kShared, task);
}

}  // namespace

template <class T>
void attend_wide(const Launch& launch, const BatchShape& shape, const AttendTask<T>& task) {
  with_head_dim(task.head_dim, [&](auto head_dim) { launch_wide<T, head_dim>(launch, shape, task); });
}

template void attend_wide<Half>(const Launch&, const BatchShape&, const AttendTask<Half>&);
template void attend_wide<BFloat16>(const Launch&, const BatchShape&, const AttendTask<BFloat16>&);

}  // namespace nibble
