// A file mapped read-only into memory. The mapping is shared: whoever holds a pointer to it keeps its bytes valid.
// Thread-safe. The size is the one the file had when it was opened; every offset into it is checked against that size.
// A file shortened by someone else while it is mapped cannot be guarded against: reading the lost part raises SIGBUS.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>

namespace nibble {

class MappedFile {
 public:
  /// Throws Error{kNotFound} when there is no such file, Error{kIo} when it is not a regular file or cannot be mapped.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& file);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }

  /// Keeps the mapping for whoever reads `part` of it. When the last one has done, the pages that hold nothing else
  /// leave the process's memory; read again, they come back from the file.
  static std::shared_ptr<const void> hold(std::shared_ptr<const MappedFile> file, std::span<const std::byte> part);

 private:
  explicit MappedFile(std::span<const std::byte> bytes) : bytes_(bytes) {}
  std::span<const std::byte> bytes_;
};

}  // namespace nibble
