// Attention of segments of one row. A head's keys are cut into up to eight parts (arXiv:2311.01282) that the blocks of
// a team share, a part into tiles of sixteen keys that warps take in turn:
//
//   cache -> shared memory -> q k^T -> softmax over the warp's tiles -> mix of values
//                              mixes of warps meet in their block, those of parts in the team's first block
//
// How keys are cut follows from their number alone, and partial results are brought together in their order, so that
// neither the batch nor the number of blocks changes a bit. A warp's first tiles are on their way before the kernel
// waits for the one that makes q: only the newest key and value come from there.
#pragma once

#include "kernels/cuda/attend_task.cuh"
#include "kernels/cuda/head_tiles.cuh"
#include "kernels/cuda/team.cuh"

namespace nibble {
namespace {

/// A query and its mix of values, spread over a warp; lane 4 g + t has the scores of keys g and g + 8. On the tensor
/// cores, eight keys and 32 dims a product: of a lane's eight dims of a key the first and third pair stand in row g,
/// the others in row g + 8, and meet the same pairs of q in even columns, in odd ones. The second factor of values are
/// the weights, rounded to T in even columns, what that left off in odd ones.
template <class T, int kDims>
struct Mixer {
  using Rows = TileRows<T, kDims>;
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
  /// `keys`, and `values` below: the address of a tile's first row.
  __device__ __forceinline__ void score(std::uint32_t keys, int lane, float (&scores)[2]) const {
    float products[2][4] = {};
#pragma unroll
    for (int i = 0; i < kDims / 32; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint4 k = load_shared(Rows::behind(keys + Rows::place(lane / 4, lane % 4), 8 * half, 4 * i));
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
  __device__ __forceinline__ void add(const float (&weights)[2], std::uint32_t values, int lane) {
    std::uint32_t w[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      w[i] = transposed(pack2<T>(weights[i], weights[i] - rounded_f32<T>(weights[i])));
    }
#pragma unroll
    for (int d = 0; d < kDims / 16; ++d) {
      std::uint32_t a[4];
      load_matrices_transposed(a, Rows::behind(values + Rows::place(lane / 16 * 8 + lane % 8, lane / 8 % 2), 0, 2 * d));
      mma<T>(sums[d], a, w[0], w[1]);
    }
  }
  __device__ __forceinline__ void store(float* mix, int lane) const {
#pragma unroll
    for (int d = 0; d < kDims / 16; d += 4) {
      float2 own{};  // of the four, chosen without branches, in which lanes would wait for one another
#pragma unroll
      for (int i = d; i < d + 4 && i < kDims / 16; ++i) {
        const float2 two{sums[i][0] + sums[i][1], sums[i][2] + sums[i][3]};
        own = i % 4 == lane % 4 ? two : own;
      }
      if (d + lane % 4 >= kDims / 16) continue;
      float* const to = mix + 16 * (d + lane % 4) + lane / 4;
      to[0] = own.x, to[8] = own.y;
    }
  }
};

/// The same in fp32: a lane has numbers `lane` + 32 i of the mix.
template <int kDims>
struct Mixer<float, kDims> {
  using Rows = TileRows<float, kDims>;
  float4 q[kDims / 16] = {};
  float sums[kDims / 32] = {};

  __device__ __forceinline__ void load_query(const float* query, int head_dim, int lane) {
#pragma unroll
    for (int i = 0; i < kDims / 16; ++i) {
      const int dim = (4 * i + lane % 4) * 4;
      if (dim < head_dim) q[i] = *reinterpret_cast<const float4*>(query + dim);
    }
  }
  __device__ __forceinline__ void score(std::uint32_t keys, int lane, float (&scores)[2]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = 0;
#pragma unroll
      for (int i = 0; i < kDims / 16; ++i) {
        const uint4 k = load_shared(Rows::behind(keys + Rows::place(lane / 4, lane % 4), 8 * half, 4 * i));
        sum = fmaf(q[i].x, __uint_as_float(k.x), sum);
        sum = fmaf(q[i].y, __uint_as_float(k.y), sum);
        sum = fmaf(q[i].z, __uint_as_float(k.z), sum);
        sum = fmaf(q[i].w, __uint_as_float(k.w), sum);
      }
      sum += __shfl_xor_sync(0xffffffffU, sum, 1);
      scores[half] = sum + __shfl_xor_sync(0xffffffffU, sum, 2);
    }
  }
  __device__ __forceinline__ void shrink(float factor) {
#pragma unroll
    for (float& sum : sums) sum *= factor;
  }
  __device__ __forceinline__ void add(const float (&weights)[2], std::uint32_t values, int lane) {
#pragma unroll
    for (int key = 0; key < kTile; ++key) {
      const float weight = __shfl_sync(0xffffffffU, weights[key / 8], key % 8 * 4);
#pragma unroll
      for (int i = 0; i < kDims / 32; ++i) {
        const std::uint32_t value = Rows::behind(values + Rows::place(0, lane / 4), key, 8 * i) + lane % 4 * 4;
        sums[i] = fmaf(weight, __uint_as_float(load_shared_word(value)), sums[i]);
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

  /// What the first `count` are together: the mix is a sum of theirs times their factors. At least one has keys. What
  /// the others have is read all the same, as loads without conditions come back together.
  struct Whole {
    float largest, sum, factor[kMost];
  };
  __device__ __forceinline__ Whole together(int count) const {
    Whole whole{-INFINITY, 0, {}};
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
      const float own = largest[i];
      whole.factor[i] = i < count ? own : -INFINITY;
      whole.largest = fmaxf(whole.largest, whole.factor[i]);
    }
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
      whole.factor[i] = exponential(whole.factor[i] - whole.largest);
      const float own = sum[i];
      whole.sum = fmaf(i < count ? own : 0.0F, whole.factor[i], whole.sum);
    }
    return whole;
  }
  __device__ __forceinline__ float mixed(const Whole& whole, int count, int dim) const {
    float value = 0;
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
      const float own = mix[i][dim];
      value = fmaf(i < count ? own : 0.0F, whole.factor[i], value);
    }
    return value;
  }
};

/// Warps of a block, so that several blocks have room for their tiles.
template <class T, int kDims>
constexpr int kOneWarps = sizeof(T) * kDims <= 512 ? 4 : 2;

template <class T, int kDims, int kTiles>
struct OneShared {
  alignas(128) char rings[kOneWarps<T, kDims>][HeadTiles<T, kDims, kTiles>::kBytes];
  Partials<kOneWarps<T, kDims>, kDims> of_warps;
  Partials<kMostParts, kDims> of_parts;  ///< in the team's first block
  Inbox inbox;
};

/// Four blocks of heads up to 128 in 16 bits have registers on a multiprocessor.
template <class T, int kDims, int kTiles>
__global__ void __launch_bounds__(32 * kOneWarps<T, kDims>, sizeof(T) * kDims <= 256 ? 4 : 2)
    attend_one_kernel(const __grid_constant__ AttendTask<T> task) {
  using Tiles = HeadTiles<T, kDims, kTiles>;
  constexpr int kWarps = kOneWarps<T, kDims>, kThreads = 32 * kWarps;
  extern __shared__ __align__(128) char memory[];
  auto& shared = *reinterpret_cast<OneShared<T, kDims, kTiles>*>(memory);
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
    Tiles room(shared_address(shared.rings[warp]), task.keys + place, task.values + place, tile, step * kTile, newest,
               task.head_dim, lane);
#pragma unroll
    for (int i = 0; i < kTiles; ++i) room.ask_keys(), room.ask_values();
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
    for (; tile < tiles; tile += step) {
      room.wait();
      if (tile == tiles - 1) {
        room.put(newest % kTile, newest_row);
        room.store(task.keys + newest_place, task.values + newest_place, newest_row);
      }
      float weights[2];
      mixer.score(room.rows(), lane, weights);
      __syncwarp();
      room.ask_keys();

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

      room.wait();
      mixer.add(weights, room.rows(), lane);
      __syncwarp();
      room.ask_values();
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

template <class T, int kDims, int kTiles>
void launch_teams(const Launch& launch, const BatchShape& shape, const AttendTask<T>& task) {
  constexpr auto kKernel = attend_one_kernel<T, kDims, kTiles>;
  constexpr int kThreads = 32 * kOneWarps<T, kDims>, kShared = sizeof(OneShared<T, kDims, kTiles>);
  allow_shared_memory<kKernel>();
  // Where all parts' blocks have no room at once, a block takes several parts instead of others' waiting for it.
  const int room = launch.processors * resident_blocks<kKernel>(kThreads, kShared);
  int team = has_clusters<kKernel>() ? shape.parts : 1;
  while (team > 1 && team * task.heads * shape.segments > room) team /= 2;
  const dim3 grid(static_cast<unsigned>(team), static_cast<unsigned>(task.heads),
                  static_cast<unsigned>(shape.segments));
  // Where the machine may choose, teams of two and four stand more evenly on it; those of eight do not.
  const auto policy = team < kMostTeam ? cudaClusterSchedulingPolicyLoadBalancing : cudaClusterSchedulingPolicyDefault;
  launch_in_clusters(launch, kKernel, grid, {static_cast<unsigned>(team), policy}, kThreads, kShared, task);
}

/// Where there are no more than three blocks for each multiprocessor, a warp has as many tiles on their way as make 12
/// KiB or more: three such blocks find room on one, and no fourth of heads of 128, which would crowd it. Otherwise one.
template <class T, int kDims>
void launch_one(const Launch& launch, const BatchShape& shape, const AttendTask<T>& task) {
  constexpr int kBytes = 12 * 1024, kTileBytes = HeadTiles<T, kDims, 1>::kBytes;
  if (shape.parts * task.heads * shape.segments <= 3 * launch.processors) {
    launch_teams<T, kDims, (kBytes + kTileBytes - 1) / kTileBytes>(launch, shape, task);
  } else {
    launch_teams<T, kDims, 1>(launch, shape, task);
  }
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
