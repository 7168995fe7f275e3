// Blocks that share work and send each other what they found: a cluster on GPUs that have clusters, a block by itself
// on others.
#pragma once

#include <cooperative_groups.h>

#include <bit>

#include "kernels/cuda/check.h"
#include "kernels/cuda/hopper.cuh"

namespace nibble {

struct Team {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  __device__ static unsigned size() { return cooperative_groups::this_cluster().num_blocks(); }
  __device__ static unsigned rank() { return cooperative_groups::this_cluster().block_rank(); }
#else
  __device__ static unsigned size() { return 1; }
  __device__ static unsigned rank() { return 0; }
#endif
};

/// Counts what a team sends to a block's shared memory. Nobody needs a fence, which would be one of the whole GPU: a
/// barrier there counts the bytes. A block by itself needs no more than to meet.
struct Inbox {
  std::uint64_t barrier;

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  /// By one thread of a block's first warp.
  __device__ void open() {
    if (Team::size() > 1) make_barrier(shared_address(&barrier), 1);
  }
  /// By the same: that many bytes are going to be sent to it by the team, each time that it is waited for.
  __device__ void announce(std::uint32_t bytes) {
    if (Team::size() > 1) arrive_announcing(shared_address(&barrier), static_cast<int>(bytes));
  }
  /// By all threads of a block, when all its inboxes are open.
  __device__ static void come() {
    if (Team::size() == 1) return;
    if (threadIdx.x < 32) publish_barriers();
    come_to_cluster();
  }
  /// By the same threads, before they send: until all blocks have opened theirs or have left.
  __device__ static void wait_for_team() {
    if (Team::size() > 1) wait_for_blocks();
  }
  /// Puts a value of 4, 8 or 16 bytes where a block, the first one unless another is named, has `place`.
  template <class V>
  __device__ void send(V& place, V value, unsigned rank = 0) const {
    if (Team::size() == 1) {
      place = value;
      return;
    }
    const std::uint32_t there = in_block(shared_address(&place), static_cast<int>(rank));
    const std::uint32_t counter = in_block(shared_address(&barrier), static_cast<int>(rank));
    if constexpr (sizeof(V) == 4) {
      asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(there),
                   "r"(std::bit_cast<std::uint32_t>(value)), "r"(counter)
                   : "memory");
    } else if constexpr (sizeof(V) == 8) {
      asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b64 [%0], %1, [%2];" ::"r"(there),
                   "l"(std::bit_cast<std::uint64_t>(value)), "r"(counter)
                   : "memory");
    } else {
      const auto halves = std::bit_cast<ulonglong2>(value);
      asm volatile(
          "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b64 [%0], {%1, %2}, [%3];" ::"r"(there),
          "l"(halves.x), "l"(halves.y), "r"(counter)
          : "memory");
    }
  }
  /// Adds two halves, of which the lower one is not carried into the other, to what the first block has there.
  __device__ void add(std::uint64_t& place, std::uint64_t value) const {
    if (Team::size() == 1) return add_here(place, value);
    asm volatile("red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u64 [%0], %1, [%2];" ::"r"(
                     in_block(shared_address(&place), 0)),
                 "l"(value), "r"(in_block(shared_address(&barrier), 0))
                 : "memory");
  }
  /// By all threads of a block, for all bytes; `parity` is that of how often it has been waited for.
  __device__ void wait_for_all(int parity = 0) const {
    if (Team::size() == 1) return __syncthreads();
    wait_for_cluster(shared_address(&barrier), parity);
  }
#else
  __device__ void open() {}
  __device__ void announce(std::uint32_t) {}
  __device__ static void come() {}
  __device__ static void wait_for_team() {}
  template <class V>
  __device__ void send(V& place, V value, unsigned = 0) const {
    place = value;
  }
  __device__ void add(std::uint64_t& place, std::uint64_t value) const { add_here(place, value); }
  __device__ void wait_for_all(int = 0) const { __syncthreads(); }
#endif

 private:
  /// There is no instruction for sums of 64 bits in a block's own memory.
  __device__ static void add_here(std::uint64_t& place, std::uint64_t value) {
    auto* halves = reinterpret_cast<std::uint32_t*>(&place);
    atomicAdd(halves, static_cast<std::uint32_t>(value));
    atomicAdd(halves + 1, static_cast<std::uint32_t>(value >> 32));
  }
};

/// Most blocks of a team, which every GPU that has clusters can do.
inline constexpr int kMostTeam = 8;

/// Whether a kernel was compiled for GPUs that have clusters.
template <auto kKernel>
bool has_clusters() {
  static const bool found = [] {
    cudaFuncAttributes attributes{};
    check(cudaFuncGetAttributes(&attributes, kKernel), "asking for a kernel");
    return attributes.ptxVersion >= 90;
  }();
  return found;
}

}  // namespace nibble
