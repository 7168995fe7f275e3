#include "kernels/cuda/device.h"

#include <algorithm>

#include "kernels/backend.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/memory.h"

namespace nibble {
namespace {

/// Kernels are compiled for this compute capability and later ones.
constexpr int kOldestMajor = 8;

std::string version(int number) { return std::to_string(number / 1000) + "." + std::to_string(number / 10 % 100); }

struct MemoryInfo {
  std::size_t free = 0, total = 0;

  MemoryInfo() {
    require_usable(look_for_gpu());
    check(cudaMemGetInfo(&free, &total), "asking for free memory");
  }
};

}  // namespace

GpuFacts look_for_gpu() {
  GpuFacts gpu{.runtime = CUDART_VERSION};
  check(cudaDriverGetVersion(&gpu.driver), "asking for the driver's version");
  if (gpu.driver == 0) return gpu;
  const cudaError_t status = cudaGetDeviceCount(&gpu.gpus);
  gpu.driver_too_old = status == cudaErrorInsufficientDriver;
  if (gpu.driver_too_old || status == cudaErrorNoDevice) return gpu;
  check(status, "looking for a GPU");
  if (gpu.gpus == 0) return gpu;
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, 0), "asking for the GPU's properties");
  gpu.name = properties.name;
  gpu.major = properties.major;
  gpu.minor = properties.minor;
  gpu.reserved_shared = static_cast<int>(properties.reservedSharedMemPerBlock);
  gpu.multiprocessors = properties.multiProcessorCount;
  return gpu;
}

void require_usable(const GpuFacts& gpu) {
  const auto refuse = [](ErrorKind kind, const std::string& expected, const std::string& found) {
    throw Error(kind, "device cuda: expected " + expected + ", found " + found);
  };
  if (gpu.driver_too_old) {
    refuse(ErrorKind::kUnsupported,
           "a driver for CUDA " + version(gpu.runtime) + ", which this nibble was built with, or later",
           "one for CUDA " + version(gpu.driver) + "; update it");
  }
  if (gpu.gpus == 0) refuse(ErrorKind::kNotFound, "an NVIDIA GPU and its driver", "none");
  if (gpu.major < kOldestMajor) {
    refuse(ErrorKind::kUnsupported, "a GPU of compute capability 8.0 or later",
           gpu.name + " of " + std::to_string(gpu.major) + "." + std::to_string(gpu.minor));
  }
  if (gpu.reserved_shared != kReservedShared) {
    refuse(ErrorKind::kUnsupported, "the driver to keep " + std::to_string(kReservedShared) + " bytes of shared memory",
           std::to_string(gpu.reserved_shared));
  }
}

std::uint64_t cuda_available_memory() {
  // What the driver takes for kernels as they are first used, and what pieces of weights need on their way.
  constexpr std::size_t kKept = std::size_t{256} << 20;
  const MemoryInfo memory;
  return memory.free - std::min(memory.free, kKept);
}

std::uint64_t cuda_overhead_memory() {
  const MemoryInfo memory;
  // Another thread may have allocated in between.
  const std::uint64_t taken = memory.total - memory.free;
  return taken - std::min(taken, allocated_device_bytes());
}

}  // namespace nibble
