// Launching kernels: shared memory beyond the default, programmatic dependent launch, and grids that fit the machine.
#pragma once

#include <algorithm>

#include "kernels/cuda/check.h"
#include "kernels/cuda/linear.h"

namespace nibble {

/// Shared memory a block may have on every GPU that is tuned for (sm_90; 100 KiB less on sm_86 and sm_89).
inline constexpr int kMostSharedBytes = 227 * 1024;

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

/// The same for work cut into `tiles`: no more blocks than the machine can hold at once.
template <class... Parameters>
void launch_resident(const Launch& launch, void (*kernel)(Parameters...), int tiles, int threads, int shared,
                     const std::type_identity_t<Parameters>&... parameters) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared), "reserving shared memory");
  int blocks = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, static_cast<std::size_t>(shared)),
        "asking for occupancy");
  const int grid = std::min(tiles, std::max(blocks, 1) * launch.processors);
  launch_overlapped(launch, kernel, dim3(static_cast<unsigned>(grid)), threads, shared, parameters...);
}

}  // namespace nibble
