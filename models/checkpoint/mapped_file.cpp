#include "models/checkpoint/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <string>
#include <system_error>
#include <utility>

#include "nibble/error.h"

namespace nibble {
namespace {

[[noreturn]] void fail(const std::filesystem::path& file, const char* action) {
  const int code = errno;
  const ErrorKind kind = code == ENOENT || code == ENOTDIR ? ErrorKind::kNotFound : ErrorKind::kIo;
  throw Error(kind, file.string() + ": cannot be " + action + ": " + std::generic_category().message(code));
}

class Descriptor {
 public:
  explicit Descriptor(const std::filesystem::path& file) : value_(::open(file.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (value_ < 0) fail(file, "opened");
  }
  ~Descriptor() { ::close(value_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int value() const { return value_; }

 private:
  int value_;
};

void drop_whole_pages(std::span<const std::byte> part) {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<std::uintptr_t>(part.data());
  const std::uintptr_t first = (begin + page - 1) / page * page, last = (begin + part.size()) / page * page;
  if (first < last) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);  // a wish
}

}  // namespace

std::shared_ptr<const MappedFile> MappedFile::open(const std::filesystem::path& file) {
  const Descriptor descriptor(file);
  struct stat status = {};
  if (::fstat(descriptor.value(), &status) != 0) fail(file, "examined");
  if (!S_ISREG(status.st_mode)) throw Error(ErrorKind::kIo, file.string() + ": is not a regular file");
  const auto size = static_cast<std::size_t>(status.st_size);
  std::span<const std::byte> bytes;  // mmap refuses a length of zero, so an empty file stays an empty span
  if (size > 0) {
    void* const start = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor.value(), 0);
    if (start == MAP_FAILED) fail(file, "mapped into memory");
    bytes = {static_cast<const std::byte*>(start), size};
  }
  return std::shared_ptr<const MappedFile>(new MappedFile(bytes));
}

std::shared_ptr<const void> MappedFile::hold(std::shared_ptr<const MappedFile> file, std::span<const std::byte> part) {
  return {part.data(), [file = std::move(file), part](const void*) { drop_whole_pages(part); }};
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

}  // namespace nibble
