// Files and directories being written that appear under their names only when they are complete and on disk. Until then
// they stand beside them under hidden temporary names. Not thread-safe. Destroyed before `commit`, they leave nothing
// behind.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

class PartialFile {
 public:
  /// Creates the file and reserves its whole size, so that a full disk is found before any work is done. A link's
  /// target is what is written. Throws Error{kInvalidArgument} where a directory or a device has the name, Error{kIo}.
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

/// A whole file at once. Throws Error{kIo}.
void write_atomically(const std::filesystem::path& file, std::string_view contents);

class PartialDirectory {
 public:
  /// Creates the directory and those above it that are absent. Throws Error{kInvalidArgument} when something has the
  /// name already, Error{kIo}.
  explicit PartialDirectory(std::filesystem::path directory);
  ~PartialDirectory();
  PartialDirectory(const PartialDirectory&) = delete;
  PartialDirectory& operator=(const PartialDirectory&) = delete;

  /// Where the directory stands until it is complete: for the files that go into it, which are written by PartialFile.
  const std::filesystem::path& path() const { return partial_; }
  /// Flushes the directory's entries and its own to disk.
  void commit();

 private:
  void make_parents(const std::filesystem::path& parent);
  void remove() noexcept;

  std::filesystem::path directory_;
  std::filesystem::path partial_;               ///< empty once committed
  std::vector<std::filesystem::path> parents_;  ///< made for it, from the outermost
};

}  // namespace nibble
