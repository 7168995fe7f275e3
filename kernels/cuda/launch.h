// Launching kernels: shared memory beyond the default, programmatic dependent launch, and grids that fit the machine.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>

#include "kernels/cuda/check.h"
#include "kernels/cuda/linear.h"

namespace nibble {

/// Shared memory that a block may have on this GPU: 227 KiB on sm_90, 99 KiB on sm_86.
inline int most_shared_bytes() {
  static const int found = [] {
    int bytes = 0;
    check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0), "asking for shared memory");
    return bytes;
  }();
  return found;
}

/// So many consecutive blocks of a row of the grid, 1 where there are no clusters, and how they find multiprocessors.
struct Cluster {
  unsigned blocks;
  cudaClusterSchedulingPolicy policy;

  Cluster(unsigned count, cudaClusterSchedulingPolicy how = cudaClusterSchedulingPolicyDefault)
      : blocks(count), policy(how) {}
};

/// Launches with programmatic dependent launch: the kernel begins while the one before it still runs, and must call
/// wait_for_previous_kernel().
template <class... Parameters>
void launch_in_clusters(const Launch& launch, void (*kernel)(Parameters...), dim3 grid, Cluster cluster, int threads,
                        int shared, const std::type_identity_t<Parameters>&... parameters) {
  cudaLaunchAttribute attributes[3] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {cluster.blocks, 1, 1};
  attributes[2].id = cudaLaunchAttributeClusterSchedulingPolicyPreference;
  attributes[2].val.clusterSchedulingPolicyPreference = cluster.policy;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(shared);
  config.stream = launch.stream;
  config.attrs = attributes;
  config.numAttrs = cluster.blocks == 1 ? 1 : cluster.policy == cudaClusterSchedulingPolicyDefault ? 2 : 3;
  check(cudaLaunchKernelEx(&config, kernel, parameters...), "launching a kernel");
}

/// The same without clusters.
template <class... Parameters>
void launch_overlapped(const Launch& launch, void (*kernel)(Parameters...), dim3 grid, int threads, int shared,
                       const std::type_identity_t<Parameters>&... parameters) {
  launch_in_clusters(launch, kernel, grid, 1, threads, shared, parameters...);
}

/// Lets a kernel have as much shared memory as there is. Once: asking the driver takes as long as a launch.
template <auto kKernel>
void allow_shared_memory() {
  static const cudaError_t status =
      cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most_shared_bytes());
  check(status, "reserving shared memory");
}

/// How many clusters of 1 to 8 blocks of a kernel, with `threads` and `shared` bytes, which are always the same, the
/// machine holds at once.
template <auto kKernel>
int resident_clusters(unsigned cluster, int threads, int shared) {
  static std::array<std::atomic<int>, 9> found = {};  // threads that ask at once find the same
  int clusters = found[cluster].load(std::memory_order_relaxed);
  if (clusters > 0) return clusters;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {cluster, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(cluster);
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(shared);
  config.attrs = &attribute;
  config.numAttrs = 1;
  check(cudaOccupancyMaxActiveClusters(&clusters, kKernel, &config), "asking for occupancy");
  found[cluster].store(clusters, std::memory_order_relaxed);
  return clusters;
}

/// How many blocks of a kernel with `threads` and `shared` bytes, which are always the same, fit a multiprocessor.
template <auto kKernel>
int resident_blocks(int threads, int shared) {
  static const int found = [&] {
    int blocks = 0;
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kKernel, threads, static_cast<std::size_t>(shared)),
          "asking for occupancy");
    return std::max(blocks, 1);
  }();
  return found;
}

}  // namespace nibble
