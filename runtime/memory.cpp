#include "nibble/memory.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <numeric>
#include <string>

#include "kernels/backend.h"
#include "kernels/roofline.h"
#include "runtime/process_memory.h"

namespace nibble {
namespace {

/// The number behind `key` in a file of lines "key number ..."; 0 when it is not there.
std::uint64_t value_of(const std::filesystem::path& file, std::string_view key) {
  std::ifstream stream(file);
  std::string word;
  while (stream >> word) {
    if (word == key) {
      std::uint64_t value = 0;
      stream >> value;
      return value;
    }
    stream.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return 0;
}

constexpr std::uint64_t kKilobyte = 1024;  ///< as /proc counts: "VmRSS:  123 kB"

constexpr std::uint64_t kNoLimit = std::numeric_limits<std::uint64_t>::max();

/// What one control group leaves of its limit. Where it has none, the limit is "max" or the file is not there.
std::uint64_t available_in(const std::filesystem::path& group) {
  std::uint64_t limit = 0;
  std::uint64_t used = 0;
  if (!(std::ifstream(group / "memory.max") >> limit)) return kNoLimit;
  if (!(std::ifstream(group / "memory.current") >> used)) return kNoLimit;
  // Files' pages that were not read lately count as used, but make way for whoever asks for memory.
  used -= std::min(used, value_of(group / "memory.stat", "inactive_file"));
  return limit - std::min(limit, used);
}

/// The process's own control group below the folder of all; empty when it is that folder, or not known.
std::filesystem::path own_group(const std::filesystem::path& file) {
  constexpr std::string_view kVersion2 = "0::/";
  std::ifstream stream(file);
  for (std::string line; std::getline(stream, line);) {
    if (line.starts_with(kVersion2)) return line.substr(kVersion2.size());
  }
  return {};
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
  return std::min(value_of("/proc/meminfo", "MemAvailable:") * kKilobyte, control_group_available("/"));
}

std::uint64_t control_group_available(const std::filesystem::path& root) {
  std::filesystem::path group = root / "sys/fs/cgroup";
  std::uint64_t available = available_in(group);
  for (const std::filesystem::path& name : own_group(root / "proc/self/cgroup")) {
    group /= name;
    available = std::min(available, available_in(group));
  }
  return available;
}

std::uint64_t overhead_memory(Device device) { return device == Device::kCuda ? cuda_overhead_memory() : 0; }

double measure_read_bandwidth(Device device, int threads) {
  return device == Device::kCuda ? cuda_read_bandwidth() : cpu_read_bandwidth(threads);
}

std::uint64_t resident_memory() { return value_of("/proc/self/status", "VmRSS:") * kKilobyte; }

}  // namespace nibble
