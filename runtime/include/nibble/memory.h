// The memory ledger: every byte a model takes, by class, predicted from headers or measured from buffers that exist.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "nibble/types.h"

namespace nibble {

enum class MemoryClass : std::uint8_t {
  kLinear,      ///< weights of the quantizable linear layers: codes, or values under scheme none
  kQuantState,  ///< what decoding needs beside the codes: absmax, nested absmax, code tables
  kEmbedding,   ///< token and position tables; a tied output head is this same memory
  kHead,        ///< an untied output head
  kOther,       ///< biases and LayerNorms
  kKvCache,
  kWorkspace,  ///< activations and scratch of one step
  kTokenizer,
};
inline constexpr int kMemoryClasses = 8;
std::string_view to_string(MemoryClass memory_class);

/// All figures in bytes. A plain value.
struct MemoryLedger {
  std::array<std::uint64_t, kMemoryClasses> bytes{};
  /// What transformers' get_memory_footprint() returns for the same load: parameters and buffers, no quantization
  /// state, nothing of the cache. Of int4, whose state its GPTQ layers count, the codes alone.
  std::uint64_t huggingface = 0;
  std::uint64_t parameters = 0;        ///< count of weights, a tied head once
  std::uint64_t process_resident = 0;  ///< code, libraries, heap beyond the classes: resident set when this was made
  std::uint64_t device_overhead = 0;   ///< of a GPU beyond the classes, measured: CUDA's context, other processes

  std::uint64_t& operator[](MemoryClass c) { return bytes[static_cast<std::size_t>(c)]; }
  std::uint64_t operator[](MemoryClass c) const { return bytes[static_cast<std::size_t>(c)]; }
  std::uint64_t weights() const;  ///< linear + quantization state + embedding + head + other
  std::uint64_t total() const;    ///< the sum of the classes
};

/// Bytes the device could still give: MemAvailable, or the control group's limit if that is lower.
std::uint64_t available_memory(Device device);

/// The roofline of decoding: bytes a second at which the device's memory can be read, measured in about a second with
/// `threads` threads (as in LoadOptions). Throws Error when there is no such device.
double measure_read_bandwidth(Device device, int threads);

}  // namespace nibble
