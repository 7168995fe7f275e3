// A file being written that appears under its name only when it is complete and on disk. Until then its bytes live
// beside it under a hidden temporary name. Not thread-safe. Destroyed before `commit`, it leaves nothing behind.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace nibble {

class PartialFile {
 public:
  /// Creates the file and reserves its whole size, so that a full disk is found before any work is done. `bytes` > 0.
  /// Throws Error{kIo}.
  PartialFile(std::filesystem::path file, std::uint64_t bytes);
  ~PartialFile();
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;

  void write(std::uint64_t offset, std::span<const std::byte> data);
  /// Flushes the bytes and the directory entry to disk; replaces whatever had the name.
  void commit();

 private:
  [[noreturn]] void fail(const std::string& action, int code) const;
  void remove() noexcept;

  std::filesystem::path file_;
  std::filesystem::path partial_;
  int descriptor_ = -1;
};

}  // namespace nibble
