// The GPU of this machine, and whether nibble runs on it.
#pragma once

#include <string>

namespace nibble {

/// Versions are as CUDA counts them: 13020 is 13.2.
struct GpuFacts {
  int driver = 0;   ///< the CUDA its driver knows; 0: there is no driver
  int runtime = 0;  ///< the CUDA nibble was built with
  bool driver_too_old = false;
  int gpus = 0;
  std::string name = {};
  int major = 0, minor = 0;  ///< compute capability
  int reserved_shared = 0;   ///< bytes of a block's shared memory that the driver keeps
  int multiprocessors = 0;
};

/// Shared memory that the driver has to keep for itself before a block's own: kernels count on it.
inline constexpr int kReservedShared = 1024;

/// What there is; of several GPUs the first. Throws Error when the driver does not answer.
GpuFacts look_for_gpu();

/// Throws Error{kNotFound, kUnsupported} saying what was expected and what found.
void require_usable(const GpuFacts& gpu);

}  // namespace nibble
