// Sums of a tile whose columns several blocks divide: those of a cluster's blocks come together in shared memory, those
// of several pairs of blocks in memory, by twos and fours in the order of columns. Room and Tile are the kernel's.
#pragma once

#include "kernels/cuda/hopper.cuh"

namespace nibble {
namespace {

/// The rows of x whose sums a block has, by eights: its share where blocks of a cluster divide the columns.
struct FusedShare {
  int first, count;

  template <int kEights>
  __device__ __forceinline__ static FusedShare of(int block, int blocks) {
    const int first = kEights * block / blocks;
    return {first, kEights * (block + 1) / blocks - first};
  }
};

__device__ __forceinline__ float4 plus(const float4& a, const float4& b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
}
/// The sum of what `of` has from `first` on of `count`, four at most, by twos.
template <class F>
__device__ __forceinline__ float4 sum_of_four(int first, int count, F&& of) {
  float4 sum = of(first);
  if (first + 1 < count) sum = plus(sum, of(first + 1));
  if (first + 3 < count) return plus(sum, plus(of(first + 2), of(first + 3)));
  return first + 2 < count ? plus(sum, of(first + 2)) : sum;
}
/// The same of all, up to eight, by fours.
template <class F>
__device__ __forceinline__ float4 sum_of_blocks(int count, F&& of) {
  const float4 sum = sum_of_four(0, count, of);
  return count > 4 ? plus(sum, sum_of_four(4, count, of)) : sum;
}

/// Sends a warp's sums to the blocks of the cluster whose share they are of, and adds up what has come for this
/// block's: those of the share's first eight come first. `inbox` is the lane's place in the warp's, where rings were
/// that all blocks have done with.
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
    const auto of = [&](int block) {
      const uint4 v = load_shared(place_of(i, block));
      return float4{__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w)};
    };
    const float4 v = sum_of_blocks(blocks, of);
    four[0] = v.x, four[1] = v.y, four[2] = v.z, four[3] = v.w;
  }
  return own;
}

/// The sums that up to four pairs of blocks left, of kCount eights, all asked for before any is waited for. So much
/// apart are those of eights and of pairs.
template <int kCount, int kApart, int kPairsApart>
__device__ __forceinline__ void sum_of_pairs(const float4* sums, int pairs, float4 (&all)[kCount]) {
  float4 of[4][kCount] = {};
#pragma unroll
  for (int p = 0; p < 4; ++p) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (p < pairs) of[p][i] = __ldcg(sums + p * kPairsApart + i * kApart);
    }
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) all[i] = sum_of_four(0, pairs, [&](int p) { return of[p][i]; });
}

/// Leaves a warp's sums, half of a tile's as its block is one of a pair, for the last of the pairs that divide the
/// tile's columns. There it adds them up, and is true, for all warps of a warpgroup or for none. `sums` are the lane's
/// of the first eight of the first pair; `before` is a word in shared memory.
template <class Tile, class Room, int kSums>
__device__ __forceinline__ bool gather_sums(float (&sum)[kSums], float4* sums, int* count, std::uint32_t before,
                                            int pair, int pairs) {
  constexpr int kEights = Room::kEights / 2, kApart = Tile::kThreads, kPairsApart = Room::kEights * kApart;
#pragma unroll
  for (int i = 0; i < kEights; ++i) {
    __stcg(sums + pair * kPairsApart + i * kApart, {sum[4 * i], sum[4 * i + 1], sum[4 * i + 2], sum[4 * i + 3]});
  }
  const int group = static_cast<int>(threadIdx.x) / 128;
  meet_group(group);
  if (threadIdx.x % 128 == 0) {
    const int there = count_in_memory(count);
    if (there == pairs - 1) *count = 0;
    store_shared_word(before, __int_as_float(there));
  }
  meet_group(group);
  if (static_cast<int>(load_shared_word(before)) < pairs - 1) return false;
  float4 all[kEights];
  sum_of_pairs<kEights, kApart, kPairsApart>(sums, pairs, all);
  if (pairs > 4) {
    float4 others[kEights];
    sum_of_pairs<kEights, kApart, kPairsApart>(sums + 4 * kPairsApart, pairs - 4, others);
#pragma unroll
    for (int i = 0; i < kEights; ++i) all[i] = plus(all[i], others[i]);
  }
#pragma unroll
  for (int i = 0; i < kEights; ++i) {
    sum[4 * i] = all[i].x, sum[4 * i + 1] = all[i].y, sum[4 * i + 2] = all[i].z, sum[4 * i + 3] = all[i].w;
  }
  return true;
}

}  // namespace
}  // namespace nibble
