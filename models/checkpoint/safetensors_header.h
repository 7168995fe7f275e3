// The header of a safetensors file: a little-endian u64 length, that many bytes of JSON, then the tensors' contents.
// Format and limits: huggingface/safetensors, safetensors/src/tensor.rs and README.md. Pure functions over bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

#include "models/checkpoint/checkpoint.h"

namespace nibble {

/// The reference implementation's limit on the JSON text.
inline constexpr std::uint64_t kMaxSafetensorsHeader = 100'000'000;
/// The key that holds string -> string notes among the tensors' names.
inline constexpr std::string_view kSafetensorsMetadata = "__metadata__";

struct SafetensorsEntry {
  TensorInfo info;
  std::uint64_t offset;  ///< of the contents, from the start of the file
};

/// Checks the whole header against the whole file and returns its tensors in the order of their contents. `file` is
/// for messages. Throws Error{kFormat, kUnsupported}.
std::vector<SafetensorsEntry> parse_safetensors_header(std::span<const std::byte> bytes,
                                                       const std::filesystem::path& file);

/// The format's name of an element type: "F32", "BOOL", ...
std::string_view safetensors_name(DType dtype);

}  // namespace nibble
