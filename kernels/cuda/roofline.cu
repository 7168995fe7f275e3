#include "kernels/roofline.h"

#include <algorithm>

#include "kernels/cuda/check.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/ptx.cuh"

namespace nibble {
namespace {

constexpr int kThreads = 512;
constexpr int kAtOnce = 4;  // loads on the way in a thread

__global__ void __launch_bounds__(kThreads) read_kernel(const uint4* words, std::size_t count, std::uint32_t* sink) {
  std::uint32_t sum = 0;
  const std::size_t step = static_cast<std::size_t>(gridDim.x) * kThreads;
  for (std::size_t i = static_cast<std::size_t>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += kAtOnce * step) {
    uint4 v[kAtOnce]{};
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (i + k * step < count) v[k] = load_once(words + i + k * step);
    }
#pragma unroll
    for (const uint4& word : v) sum += word.x ^ word.y ^ word.z ^ word.w;
  }
  if (sum == 0x9e3779b9U) *sink = sum;  // used, so that the reads are; as good as never
}

}  // namespace

double cuda_read_bandwidth() {
  constexpr std::size_t kBytes = std::size_t{1} << 30;  // many times the second-level cache
  constexpr int kReads = 20;
  int processors = 0;
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, 0), "asking for multiprocessors");
  DeviceMemory memory(nullptr, 1);
  Buffer words = memory.allocate(kBytes), sink = memory.allocate(sizeof(std::uint32_t));
  check(cudaMemset(words.mutable_as<void>(), 1, kBytes), "filling memory");
  cudaEvent_t begin{}, end{};
  check(cudaEventCreate(&begin), "creating an event");
  check(cudaEventCreate(&end), "creating an event");
  float best = 0;
  for (int read = 0; read < kReads; ++read) {
    check(cudaEventRecord(begin), "timing a read");
    read_kernel<<<static_cast<unsigned>(processors * 4), kThreads>>>(words.as<uint4>(), kBytes / sizeof(uint4),
                                                                     sink.mutable_as<std::uint32_t>());
    check(cudaGetLastError(), "reading memory");
    check(cudaEventRecord(end), "timing a read");
    check(cudaEventSynchronize(end), "timing a read");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin, end), "timing a read");
    best = read == 0 ? milliseconds : std::min(best, milliseconds);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return static_cast<double>(kBytes) / (static_cast<double>(best) * 1e-3);
}

}  // namespace nibble
