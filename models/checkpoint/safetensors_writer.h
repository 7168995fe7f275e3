// Writes one safetensors file whose contents arrive tensor by tensor, so that a checkpoint larger than memory can be
// written. The file appears under its name only when everything is in it and on disk.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "models/checkpoint/checkpoint.h"
#include "models/checkpoint/partial_file.h"

namespace nibble {

/// Not thread-safe. A writer destroyed before `commit` leaves nothing behind.
class SafetensorsWriter {
 public:
  /// Lays the file out as the reference writer does: larger element types first, then by name, data 8-aligned.
  /// `tensors` need only name, dtype and shape. Throws Error{kIo} when the file cannot be created at its full size,
  /// Error{kInvalidArgument} when the declarations contradict each other.
  SafetensorsWriter(const std::filesystem::path& file, std::vector<TensorInfo> tensors,
                    const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

  /// The contents of one declared tensor, in any order, each exactly once and of exactly its size.
  void write(const std::string& name, std::span<const std::byte> data);
  /// Checks that every tensor was written, flushes to disk and moves the file to its name, replacing what was there.
  void commit();

 private:
  struct Slot {
    std::uint64_t offset;
    std::uint64_t bytes;
    bool written = false;
  };
  struct Layout {
    std::string header;  ///< length and JSON
    std::map<std::string, Slot> slots;
    std::uint64_t bytes;  ///< of the whole file
  };
  static Layout lay_out(const std::filesystem::path& file, std::vector<TensorInfo> tensors,
                        const std::map<std::string, std::string>& metadata);
  SafetensorsWriter(Layout layout, const std::filesystem::path& file);

  std::filesystem::path file_;
  std::map<std::string, Slot> slots_;
  PartialFile partial_;
};

}  // namespace nibble
