// Launching kernels: shared memory beyond the default, programmatic dependent launch, and grids that fit the machine.
#pragma once

#include <algorithm>

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

/// Launches with programmatic dependent launch: the kernel begins while the one before it still runs, and must call
/// wait_for_previous_kernel().
template <class... Parameters>
void launch_overlapped(const Launch& launch, void (*kernel)(Parameters...), dim3 grid, int threads, int shared,
                       const std::type_identity_t<Parameters>&... parameters) {
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(shared);
  config.stream = launch.stream;
  config.attrs = &overlap;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, kernel, parameters...), "launching a kernel");
}

/// Lets a kernel have as much shared memory as there is. Once: asking the driver takes as long as a launch.
template <auto kKernel>
void allow_shared_memory() {
  static const cudaError_t status =
      cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most_shared_bytes());
  check(status, "reserving shared memory");
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
