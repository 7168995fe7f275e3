#include "models/checkpoint/partial_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

#include "nibble/error.h"

namespace nibble {
namespace {

std::filesystem::path directory_of(const std::filesystem::path& file) {
  return file.has_parent_path() ? file.parent_path() : std::filesystem::path(".");
}

/// Unique among live processes and within this one; O_EXCL catches what a crashed process left.
std::filesystem::path partial_name(const std::filesystem::path& file) {
  static std::atomic<unsigned> counter = 0;
  std::string name = ".";
  name += file.filename().string() + "." + std::to_string(::getpid()) + "-" + std::to_string(counter++) + ".partial";
  return directory_of(file) / name;
}

}  // namespace

PartialFile::PartialFile(std::filesystem::path file, std::uint64_t bytes) : file_(std::move(file)) {
  do {
    partial_ = partial_name(file_);
    descriptor_ = ::open(partial_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  } while (descriptor_ < 0 && errno == EEXIST);
  if (descriptor_ < 0) fail("create it", errno);
  int code = 0;
  do {
    code = ::posix_fallocate(descriptor_, 0, static_cast<off_t>(bytes));
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

void PartialFile::fail(const std::string& action, int code) const {
  throw Error(ErrorKind::kIo, file_.string() + ": cannot " + action + ": " + std::generic_category().message(code));
}

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
  // The rename is durable once the directory is on disk too.
  const int directory = ::open(directory_of(file_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0) fail("open its directory", errno);
  const int code = ::fsync(directory) == 0 ? 0 : errno;
  ::close(directory);
  // EINVAL: a file system without directory flushing, which has no more to offer.
  if (code != 0 && code != EINVAL) fail("flush its directory to disk", code);
}

}  // namespace nibble
