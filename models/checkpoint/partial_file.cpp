#include "models/checkpoint/partial_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <system_error>
#include <utility>

#include "nibble/error.h"

namespace nibble {
namespace {

[[noreturn]] void fail_at(const std::filesystem::path& path, const std::string& action, int code) {
  throw Error(ErrorKind::kIo, path.string() + ": cannot " + action + ": " + std::generic_category().message(code));
}

std::filesystem::path parent_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

/// Unique among live processes and within this one; creating it exclusively catches what a crashed process left.
std::filesystem::path partial_name(const std::filesystem::path& path) {
  static std::atomic<unsigned> counter = 0;
  std::string name = ".";
  name += path.filename().string() + "." + std::to_string(::getpid()) + "-" + std::to_string(counter++) + ".partial";
  return parent_of(path) / name;
}

/// Makes names given and taken in this directory last.
void flush_directory(const std::filesystem::path& directory) {
  const int descriptor = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) fail_at(directory, "open it", errno);
  const int code = ::fsync(descriptor) == 0 ? 0 : errno;
  ::close(descriptor);
  // EINVAL: a file system without directory flushing, which has no more to offer.
  if (code != 0 && code != EINVAL) fail_at(directory, "flush it to disk", code);
}

/// "out/" and "out/." are "out", which nothing can stand beside or be renamed to otherwise.
std::filesystem::path without_trailing_slash(std::filesystem::path path) {
  while (path.has_parent_path() && path.has_relative_path() && (!path.has_filename() || path.filename() == ".")) {
    path = path.parent_path();
  }
  return path;
}

/// What a link leads to is written, and the link stays.
std::filesystem::path without_links(std::filesystem::path file) {
  std::error_code error;
  std::filesystem::path target = std::filesystem::canonical(file, error);
  return error ? file : target;
}

}  // namespace

PartialFile::PartialFile(std::filesystem::path file, std::uint64_t bytes) : file_(without_links(std::move(file))) {
  std::error_code ignored;
  const std::filesystem::file_status there = std::filesystem::status(file_, ignored);
  if (std::filesystem::exists(there) && !std::filesystem::is_regular_file(there)) {
    throw Error(ErrorKind::kInvalidArgument,
                file_.string() + ": expected a file or a name that is free, found something else that has it");
  }
  do {
    partial_ = partial_name(file_);
    descriptor_ = ::open(partial_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  } while (descriptor_ < 0 && errno == EEXIST);
  if (descriptor_ < 0) fail("create it", errno);
  int code = 0;
  do {  // a file of no bytes has nothing to reserve, which posix_fallocate takes for an error
    code = bytes == 0 ? 0 : ::posix_fallocate(descriptor_, 0, static_cast<off_t>(bytes));
  } while (code == EINTR);
  if (code != 0) {
    remove();
    fail("reserve its " + std::to_string(bytes) + " bytes", code);
  }
}

PartialFile::~PartialFile() { remove(); }

void PartialFile::remove() noexcept {
  if (descriptor_ < 0) return;
  ::close(std::exchange(descriptor_, -1));
  ::unlink(partial_.c_str());
}

void PartialFile::fail(const std::string& action, int code) const { fail_at(file_, action, code); }

void PartialFile::write(std::uint64_t offset, std::span<const std::byte> data) {
  while (!data.empty()) {
    const ssize_t count = ::pwrite(descriptor_, data.data(), data.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail("write it", errno);
    data = data.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
}

void PartialFile::commit() {
  if (::fsync(descriptor_) != 0) fail("flush it to disk", errno);
  if (::rename(partial_.c_str(), file_.c_str()) != 0) fail("give it its name", errno);
  ::close(std::exchange(descriptor_, -1));
  flush_directory(parent_of(file_));
}

void write_atomically(const std::filesystem::path& file, std::string_view contents) {
  PartialFile partial(file, contents.size());
  partial.write(0, std::as_bytes(std::span(contents)));
  partial.commit();
}

PartialDirectory::PartialDirectory(std::filesystem::path directory)
    : directory_(without_trailing_slash(std::move(directory))) {
  if (directory_.empty()) {
    throw Error(ErrorKind::kInvalidArgument, "expected the name of a directory to be made, found none");
  }
  std::error_code ignored;  // what cannot be examined cannot be made either, which then is said
  if (std::filesystem::exists(std::filesystem::symlink_status(directory_, ignored))) {
    throw Error(ErrorKind::kInvalidArgument,
                directory_.string() + ": expected a directory to be made, found it exists");
  }
  try {
    make_parents(parent_of(directory_));
    int made = 0;
    do {
      partial_ = partial_name(directory_);
      made = ::mkdir(partial_.c_str(), 0777);
    } while (made != 0 && errno == EEXIST);
    if (made != 0) fail_at(directory_, "create it", errno);
  } catch (...) {
    remove();
    throw;
  }
}

PartialDirectory::~PartialDirectory() { remove(); }

void PartialDirectory::make_parents(const std::filesystem::path& parent) {
  std::error_code ignored;
  if (std::filesystem::exists(parent, ignored)) return;
  make_parents(parent_of(parent));
  if (::mkdir(parent.c_str(), 0777) != 0) fail_at(parent, "create it", errno);
  parents_.push_back(parent);
}

void PartialDirectory::remove() noexcept {
  std::error_code ignored;
  if (!partial_.empty()) std::filesystem::remove_all(partial_, ignored);
  // One that something else has come into is not empty and stays.
  for (; !parents_.empty(); parents_.pop_back()) std::filesystem::remove(parents_.back(), ignored);
}

void PartialDirectory::commit() {
  flush_directory(partial_);
  if (::rename(partial_.c_str(), directory_.c_str()) != 0) fail_at(directory_, "give it its name", errno);
  partial_.clear();
  flush_directory(parent_of(directory_));
  for (const std::filesystem::path& parent : std::exchange(parents_, {})) flush_directory(parent_of(parent));
}

}  // namespace nibble
