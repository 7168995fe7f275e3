// Attention of segments of one row. A head's keys are cut into up to eight parts (arXiv:2311.01282) that the blocks of
// a team share, a part into tiles of sixteen keys that warps take in turn:
//
//   cache -> shared memory -> q k^T -> softmax over the warp's tiles -> mix of values
//                              mixes of warps meet in their block, those of parts in the team's first block
//
// How keys are cut follows from their number alone, and partial results are brought together in their order, so that
// neither the batch nor the number of blocks changes a bit. A warp's first tile is on its way before the kernel waits
// for the one that makes q: only the newest key and value come from there.
#pragma once

#include "kernels/cuda/attend_task.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/team.cuh"

namespace nibble {
namespace {

/// Keys that a warp takes at once.
constexpr int kTile = 16;

/// Rows of a tile in shared memory stand so far apart that lanes read different banks: keys by rows, values by columns.
template <class T, int kDims>
constexpr int kKeyPitch = kDims + (sizeof(T) == 4    ? 4
                                   : kDims % 64 == 0 ? 32
                                                     : 0);
template <class T, int kDims>
constexpr int kValuePitch = kDims + 16 / static_cast<int>(sizeof(T));

/// A query and its mix of values, spread over a warp; lane 4 g + t has the scores of keys g and g + 8. On the tensor
/// cores, eight keys and 32 dims a product: of a lane's eight dims of a key the first and third pair stand in row g,
/// the others in row g + 8, and meet the same pairs of q in even columns, in odd ones. The second factor of values are
/// the weights, rounded to T in even columns, what that left off in odd ones.
template <class T, int kDims>
struct Mixer {
  std::uint32_t q[kDims / 32][2];
  float sums[kDims / 16][4] = {};

  __device__ __forceinline__ void load_query(const T* query, int head_dim, int lane) {
#pragma unroll
    for (int i = 0; i < kDims / 32; ++i) {
      const int dim = (4 * i + lane % 4) * 8;
      const uint4 eight = dim < head_dim ? *reinterpret_cast<const uint4*>(query + dim) : uint4{};
      q[i][0] = lane & 4 ? eight.y : eight.x;
      q[i][1] = lane & 4 ? eight.w : eight.z;
    }
  }
  __device__ __forceinline__ void score(const T* keys, int lane, float (&scores)[2]) const {
    float products[2][4] = {};
    const std::uint32_t row = shared_address(keys + lane / 4 * kKeyPitch<T, kDims> + lane % 4 * 8);
#pragma unroll
    for (int i = 0; i < kDims / 32; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint4 k = load_shared(row + (8 * half * kKeyPitch<T, kDims> + 32 * i) * sizeof(T));
        mma<T>(products[half], {k.x, k.y, k.z, k.w}, q[i][0], q[i][1]);
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) scores[half] = products[half][0] + products[half][3];
  }
  __device__ __forceinline__ void shrink(float factor) {
#pragma unroll
    for (float(&four)[4] : sums) {
#pragma unroll
      for (float& sum : four) sum *= factor;
    }
  }
  __device__ __forceinline__ void add(const float (&weights)[2], const T* values, int lane) {
    std::uint32_t w[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      w[i] = transposed(pack2<T>(weights[i], weights[i] - rounded_f32<T>(weights[i])));
    }
    const T* const row = values + (lane / 16 * 8 + lane % 8) * kValuePitch<T, kDims> + lane / 8 % 2 * 8;
#pragma unroll
    for (int d = 0; d < kDims / 16; ++d) {
      std::uint32_t a[4];
      load_matrices_transposed(a, row + 16 * d);
      mma<T>(sums[d], a, w[0], w[1]);
    }
  }
  __device__ __forceinline__ void store(float* mix, int lane) const {
#pragma unroll
    for (int d = 0; d < kDims / 16; ++d) {
      if (d % 4 != lane % 4) continue;
      mix[16 * d + lane / 4] = sums[d][0] + sums[d][1];
      mix[16 * d + lane / 4 + 8] = sums[d][2] + sums[d][3];
    }
  }
};

/// The same in fp32: a lane has numbers `lane` + 32 i of the mix.
template <int kDims>
struct Mixer<float, kDims> {
  float q[kDims / 32][8] = {};
  float sums[kDims / 32] = {};

  __device__ __forceinline__ void load_query(const float* query, int head_dim, int lane) {
#pragma unroll
    for (int i = 0; i < kDims / 32; ++i) {
      const int dim = (4 * i + lane % 4) * 8;
      if (dim < head_dim) load8(query + dim, q[i]);
    }
  }
  __device__ __forceinline__ void score(const float* keys, int lane, float (&scores)[2]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = 0;
#pragma unroll
      for (int i = 0; i < kDims / 32; ++i) {
        float key[8];
        load8(keys + (lane / 4 + 8 * half) * kKeyPitch<float, kDims> + (4 * i + lane % 4) * 8, key);
#pragma unroll
        for (int d = 0; d < 8; ++d) sum = fmaf(q[i][d], key[d], sum);
      }
      sum += __shfl_xor_sync(0xffffffffU, sum, 1);
      scores[half] = sum + __shfl_xor_sync(0xffffffffU, sum, 2);
    }
  }
  __device__ __forceinline__ void shrink(float factor) {
#pragma unroll
    for (float& sum : sums) sum *= factor;
  }
  __device__ __forceinline__ void add(const float (&weights)[2], const float* values, int lane) {
#pragma unroll
    for (int key = 0; key < kTile; ++key) {
      const float weight = __shfl_sync(0xffffffffU, weights[key / 8], key % 8 * 4);
#pragma unroll
      for (int i = 0; i < kDims / 32; ++i) {
        sums[i] = fmaf(weight, values[key * kValuePitch<float, kDims> + lane + 32 * i], sums[i]);
      }
    }
  }
  __device__ __forceinline__ void store(float* mix, int lane) const {
#pragma unroll
    for (int i = 0; i < kDims / 32; ++i) mix[lane + 32 * i] = sums[i];
  }
};

/// Partial softmaxes: the largest score, the sum of exponentials relative to it, and the mix of values.
template <int kMost, int kDims>
struct Partials {
  float largest[kMost], sum[kMost];
  float mix[kMost][kDims];

  /// What the first `count` are together: the mix is a sum of theirs times their factors. At least one has keys.
  struct Whole {
    float largest, sum, factor[kMost];
  };
  __device__ __forceinline__ Whole together(int count) const {
    Whole whole{-INFINITY, 0, {}};
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
      whole.factor[i] = i < count ? largest[i] : -INFINITY;
      whole.largest = fmaxf(whole.largest, whole.factor[i]);
    }
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
      whole.factor[i] = exponential(whole.factor[i] - whole.largest);
      whole.sum = fmaf(i < count ? sum[i] : 0.0F, whole.factor[i], whole.sum);
    }
    return whole;
  }
  __device__ __forceinline__ float mixed(const Whole& whole, int count, int dim) const {
    float value = 0;
#pragma unroll
    for (int i = 0; i < kMost; ++i) value = fmaf(i < count ? mix[i][dim] : 0.0F, whole.factor[i], value);
    return value;
  }
};

/// A warp's tiles of a head in shared memory, keys and behind them values, and what comes next from the cache. So many
/// as kStages are on their way or in use, in places that they take in turn.
template <class T, int kDims, int kStages>
class HeadTiles {
 public:
  static constexpr int kPerPiece = 16 / static_cast<int>(sizeof(T)), kPieces = kDims / kPerPiece;  // of 16 bytes
  static constexpr int kSpan = kPieces > 16 ? 32 : kPieces > 8 ? 16 : 8;  // lanes that share a row
  static constexpr int kRows = 32 / kSpan;
  static constexpr int kTileSize = kTile * (kKeyPitch<T, kDims> + kValuePitch<T, kDims>);
  static constexpr int kSize = kStages * kTileSize;

  /// `room` has kSize numbers; the head's rows in the cache are [context, head_dim].
  __device__ HeadTiles(T* room, T* cached_keys, T* cached_values, int tile, int head_dim, int lane)
      : room_(room),
        next_key_(cached_keys + place(tile, head_dim, lane)),
        next_value_(cached_values + place(tile, head_dim, lane)),
        head_dim_(head_dim),
        lane_(lane) {}

  __device__ __forceinline__ T* keys(int stage) const { return room_ + stage * kTileSize; }
  __device__ __forceinline__ T* values(int stage) const { return keys(stage) + kTile * kKeyPitch<T, kDims>; }

  /// Asks for the next tile, of whose rows the first `older` are in the cache; the others become zeros. Tiles are
  /// `step` apart.
  __device__ __forceinline__ void fetch_keys(int stage, int older, int step) {
    fetch<kKeyPitch<T, kDims>>(older, next_key_, keys(stage));
    next_key_ += static_cast<std::int64_t>(step * kTile) * head_dim_;
  }
  __device__ __forceinline__ void fetch_values(int stage, int older, int step) {
    fetch<kValuePitch<T, kDims>>(older, next_value_, values(stage));
    next_value_ += static_cast<std::int64_t>(step * kTile) * head_dim_;
  }

  /// A lane's pieces of a key, and of the value behind it.
  struct Row {
    uint4 pieces[(2 * kPieces + 31) / 32];
  };
  __device__ __forceinline__ void load(const T* key, const T* value, Row& row) const {
    for_each_piece([&](int i, bool is_value, int dim) {
      row.pieces[i] = *reinterpret_cast<const uint4*>((is_value ? value : key) + dim);
    });
  }
  __device__ __forceinline__ void put(int stage, int slot, const Row& row) const {
    for_each_piece([&](int i, bool is_value, int dim) {
      T* const to = is_value ? values(stage) + slot * kValuePitch<T, kDims> : keys(stage) + slot * kKeyPitch<T, kDims>;
      *reinterpret_cast<uint4*>(to + dim) = row.pieces[i];
    });
  }
  __device__ __forceinline__ void store(T* key, T* value, const Row& row) const {
    for_each_piece([&](int i, bool is_value, int dim) {
      *reinterpret_cast<uint4*>((is_value ? value : key) + dim) = row.pieces[i];
    });
  }

 private:
  __device__ static std::int64_t place(int tile, int head_dim, int lane) {
    return static_cast<std::int64_t>(tile * kTile + lane / kSpan) * head_dim + lane % kSpan * kPerPiece;
  }
  template <int kPitch>
  __device__ __forceinline__ void fetch(int older, const T* from, const T* room) const {
    const int dim = lane_ % kSpan * kPerPiece, row = lane_ / kSpan;
    const std::uint32_t to = shared_address(room + row * kPitch + dim);
#pragma unroll
    for (int i = 0; i < kTile; i += kRows, from += kRows * head_dim_) {
#pragma unroll
      for (int d = 0; d < kDims; d += kSpan * kPerPiece) {
        if (dim + d < kDims)
          copy_async(to + (i * kPitch + d) * sizeof(T), from + d, i + row < older && dim + d < head_dim_);
      }
    }
  }
  template <class F>
  __device__ __forceinline__ void for_each_piece(F&& f) const {
#pragma unroll
    for (int i = 0; i < (2 * kPieces + 31) / 32; ++i) {
      const int piece = lane_ + 32 * i, dim = piece % kPieces * kPerPiece;
      if (piece < 2 * kPieces && dim < head_dim_) f(i, piece >= kPieces, dim);
    }
  }

  T* room_;
  const T *next_key_, *next_value_;
  int head_dim_, lane_;
};

/// Warps of a block, so that several blocks have room for their tiles.
template <class T, int kDims>
constexpr int kOneWarps = sizeof(T) * kDims <= 512 ? 4 : 2;

template <class T, int kDims, int kStages>
struct OneShared {
  T tiles[kOneWarps<T, kDims>][HeadTiles<T, kDims, kStages>::kSize];
  Partials<kOneWarps<T, kDims>, kDims> of_warps;
  Partials<kMostParts, kDims> of_parts;  ///< in the team's first block
  Inbox inbox;
};

template <class T, int kDims, int kStages>
__global__ void __launch_bounds__(32 * kOneWarps<T, kDims>, 2)
    attend_one_kernel(const __grid_constant__ AttendTask<T> task) {
  using Tiles = HeadTiles<T, kDims, kStages>;
  constexpr int kWarps = kOneWarps<T, kDims>, kThreads = 32 * kWarps;
  extern __shared__ __align__(128) char memory[];
  auto& shared = *reinterpret_cast<OneShared<T, kDims, kStages>*>(memory);
  let_next_kernel_start();
  // The batch and the keys of earlier steps were there before the kernel that this one waits for.
  const Segment segment = task.batch.segments[blockIdx.z];
  const int newest = segment.past, tiles = newest / kTile + 1;
  const int parts = attention_parts(newest + 1), step = parts * kWarps;
  const int rank = static_cast<int>(Team::rank()), team = static_cast<int>(Team::size());
  if (segment.rows != 1 || rank >= parts) return wait_for_previous_kernel();
  if (threadIdx.x == 0) {
    shared.inbox.open();
    shared.inbox.announce(static_cast<std::uint32_t>(parts * (task.head_dim + 2)) * sizeof(float));
  }
  Inbox::come();

  const int head = blockIdx.y;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const std::int64_t row = task.row(segment.first_row, head), place = task.cached(segment.sequence, head);
  const std::int64_t newest_place = place + static_cast<std::int64_t>(newest) * task.head_dim;
#pragma unroll 1
  for (int part = rank; part < parts; part += team) {
    int tile = part + parts * warp;
    Tiles room(shared.tiles[warp], task.keys + place, task.values + place, tile, task.head_dim, lane);
    const auto fetch_keys = [&](int stage, int tile) {
      if (tile < tiles) room.fetch_keys(stage, newest - tile * kTile, step);
      commit_copies();
    };
    const auto fetch_values = [&](int stage, int tile) {
      if (tile < tiles) room.fetch_values(stage, newest - tile * kTile, step);
      commit_copies();
    };
#pragma unroll
    for (int i = 0; i < kStages; ++i) {
      fetch_keys(i, tile + i * step);
      fetch_values(i, tile + i * step);
    }
    if (part == rank) {
      Inbox::wait_for_team();
      wait_for_previous_kernel();
    }
    Mixer<T, kDims> mixer;
    mixer.load_query(task.q + row, task.head_dim, lane);
    typename Tiles::Row newest_row;
    if (((tiles - 1 - tile) & (step - 1)) == 0) room.load(task.k + row, task.v + row, newest_row);

    float largest = -INFINITY, sum = 0;
#pragma unroll 1
    for (int stage = 0; tile < tiles; tile += step, stage = (stage + 1) % kStages) {
      wait_for_copies<2 * kStages - 1>();
      if (tile == tiles - 1) {
        wait_for_copies<0>();
        __syncwarp();
        room.put(stage, newest % kTile, newest_row);
        room.store(task.keys + newest_place, task.values + newest_place, newest_row);
      }
      __syncwarp();
      float weights[2];
      mixer.score(room.keys(stage), lane, weights);
      __syncwarp();
      fetch_keys(stage, tile + kStages * step);

#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (tile * kTile + lane / 4 + 8 * i > newest) weights[i] = -INFINITY;
      }
      float larger = fmaxf(weights[0], weights[1]);
#pragma unroll
      for (int lanes = 4; lanes < 32; lanes *= 2) larger = fmaxf(larger, __shfl_xor_sync(0xffffffffU, larger, lanes));
      larger = fmaxf(larger, largest);  // every tile has a key, so it is finite
      const float factor = exponential(largest - larger);
      largest = larger;
#pragma unroll
      for (float& weight : weights) weight = exponential(weight - larger);
      sum = fmaf(sum, factor, weights[0] + weights[1]);
      mixer.shrink(factor);

      wait_for_copies<2 * kStages - 1>();
      __syncwarp();
      mixer.add(weights, room.values(stage), lane);
      __syncwarp();
      fetch_values(stage, tile + kStages * step);
    }
#pragma unroll
    for (int lanes = 4; lanes < 32; lanes *= 2) sum += __shfl_xor_sync(0xffffffffU, sum, lanes);

    mixer.store(shared.of_warps.mix[warp], lane);
    if (lane == 0) shared.of_warps.largest[warp] = largest, shared.of_warps.sum[warp] = sum;
    __syncthreads();
    const auto whole = shared.of_warps.together(kWarps);
#pragma unroll 1
    for (int dim = threadIdx.x; dim < task.head_dim; dim += kThreads) {
      shared.inbox.send(shared.of_parts.mix[part][dim], shared.of_warps.mixed(whole, kWarps, dim));
    }
    if (threadIdx.x == 0) {
      shared.inbox.send(shared.of_parts.largest[part], whole.largest);
      shared.inbox.send(shared.of_parts.sum[part], whole.sum);
    }
    if (part + team < parts) __syncthreads();  // a block by itself takes the next one
  }
  if (rank != 0) return;
  shared.inbox.wait_for_all();
  const auto whole = shared.of_parts.together(parts);
#pragma unroll 1
  for (int dim = threadIdx.x; dim < task.head_dim; dim += kThreads) {
    task.y[row + dim] = from_f32<T>(__fdividef(shared.of_parts.mixed(whole, parts, dim), whole.sum));
  }
}

template <class T, int kDims, int kStages>
void launch_teams(const Launch& launch, const BatchShape& shape, const AttendTask<T>& task) {
  constexpr auto kKernel = attend_one_kernel<T, kDims, kStages>;
  constexpr int kThreads = 32 * kOneWarps<T, kDims>, kShared = sizeof(OneShared<T, kDims, kStages>);
  allow_shared_memory<kKernel>();
  // Where all parts' blocks have no room at once, a block takes several parts instead of others' waiting for it.
  const int room = launch.processors * resident_blocks<kKernel>(kThreads, kShared);
  int team = has_clusters<kKernel>() ? shape.parts : 1;
  while (team > 1 && team * task.heads * shape.segments > room) team /= 2;
  const dim3 grid(static_cast<unsigned>(team), static_cast<unsigned>(task.heads),
                  static_cast<unsigned>(shape.segments));
  launch_in_clusters(launch, kKernel, grid, static_cast<unsigned>(team), kThreads, kShared, task);
}

/// Parts of more than a tile a warp have another one on its way, where there are no more than two blocks for each
/// multiprocessor and they leave room for one of a linear: 16 heads of 64 and 2,000 keys are 6 % of a token faster.
template <class T, int kDims>
void launch_one(const Launch& launch, const BatchShape& shape, const AttendTask<T>& task) {
  if constexpr (sizeof(T) * kDims <= 192) {
    if (shape.parts == kMostParts && shape.parts * task.heads * shape.segments <= 2 * launch.processors) {
      return launch_teams<T, kDims, 2>(launch, shape, task);
    }
  }
  launch_teams<T, kDims, 1>(launch, shape, task);
}

}  // namespace

/// The head sizes it is made for.
inline bool takes_one(int head_dim) { return head_dim % 8 == 0 && head_dim <= 256; }

template <class T>
void attend_one(const Launch& launch, const BatchShape& shape, const AttendTask<T>& task) {
  if (task.head_dim <= 64) {
    launch_one<T, 64>(launch, shape, task);
  } else if (task.head_dim <= 96) {
    launch_one<T, 96>(launch, shape, task);
  } else if (task.head_dim <= 128) {
    launch_one<T, 128>(launch, shape, task);
  } else {
    launch_one<T, 256>(launch, shape, task);
  }
}

}  // namespace nibble
