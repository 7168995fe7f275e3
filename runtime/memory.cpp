#include "nibble/memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <numeric>
#include <string>

#include "kernels/backend.h"
#include "kernels/roofline.h"
#include "runtime/process_memory.h"

namespace nibble {
namespace {

/// A line "Key:  123 kB" of a /proc file, in bytes; 0 when it is not there.
std::uint64_t proc_value(const char* file, std::string_view key) {
  std::ifstream stream(file);
  std::string word;
  while (stream >> word) {
    if (word == key) {
      std::uint64_t kilobytes = 0;
      stream >> kilobytes;
      return kilobytes * 1024;
    }
    stream.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return 0;
}

/// What the control group (version 2) leaves of its limit; no limit is the largest number.
std::uint64_t cgroup_available() {
  constexpr std::uint64_t kNoLimit = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t limit = 0;
  std::uint64_t used = 0;
  if (!(std::ifstream("/sys/fs/cgroup/memory.max") >> limit)) return kNoLimit;  // "max", or no such group
  if (!(std::ifstream("/sys/fs/cgroup/memory.current") >> used)) return kNoLimit;
  return limit - std::min(limit, used);
}

}  // namespace

std::string_view to_string(MemoryClass memory_class) {
  switch (memory_class) {
    case MemoryClass::kLinear:
      return "linear weights";
    case MemoryClass::kQuantState:
      return "quantization state";
    case MemoryClass::kEmbedding:
      return "embeddings";
    case MemoryClass::kHead:
      return "output head";
    case MemoryClass::kOther:
      return "biases and norms";
    case MemoryClass::kKvCache:
      return "KV cache";
    case MemoryClass::kWorkspace:
      return "workspace";
    case MemoryClass::kTokenizer:
      break;
  }
  return "tokenizer";
}

std::uint64_t MemoryLedger::weights() const {
  const auto first = bytes.begin();
  return std::accumulate(first, first + static_cast<int>(MemoryClass::kOther) + 1, std::uint64_t{0});
}

std::uint64_t MemoryLedger::total() const { return std::accumulate(bytes.begin(), bytes.end(), std::uint64_t{0}); }

std::uint64_t available_memory(Device device) {
  if (device == Device::kCuda) return cuda_available_memory();
  return std::min(proc_value("/proc/meminfo", "MemAvailable:"), cgroup_available());
}

std::uint64_t overhead_memory(Device device) { return device == Device::kCuda ? cuda_overhead_memory() : 0; }

double measure_read_bandwidth(Device device, int threads) {
  return device == Device::kCuda ? cuda_read_bandwidth() : cpu_read_bandwidth(threads);
}

std::uint64_t resident_memory() { return proc_value("/proc/self/status", "VmRSS:"); }

}  // namespace nibble
