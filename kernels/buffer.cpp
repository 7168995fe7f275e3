#include "kernels/buffer.h"

#include <sys/mman.h>

#include <new>
#include <string>

#include "nibble/error.h"

namespace nibble {
namespace {

/// A cache line, and the width of the widest vector register the kernels use.
constexpr std::size_t kAlignment = 64;

constexpr std::size_t kHugePage = std::size_t{2} << 20;

}  // namespace

Buffer Buffer::allocate_aligned(std::size_t bytes, std::size_t alignment) {
  void* data = ::operator new (bytes, std::align_val_t{alignment}, std::nothrow);
  if (data == nullptr) {
    throw Error(ErrorKind::kOutOfMemory, "memory: " + std::to_string(bytes) + " bytes were refused by the system");
  }
  Buffer buffer;
  buffer.owner_ = std::shared_ptr<void>(
      data, [alignment](void* memory) { ::operator delete (memory, std::align_val_t{alignment}); });
  buffer.data_ = data;
  buffer.size_ = bytes;
  return buffer;
}

Buffer Buffer::allocate(std::size_t bytes) { return allocate_aligned(bytes, kAlignment); }

Buffer Buffer::allocate_in_huge_pages(std::size_t bytes) {
  const std::size_t whole_pages = bytes / kHugePage * kHugePage;
  if (whole_pages == 0) return allocate(bytes);
  Buffer buffer = allocate_aligned(bytes, kHugePage);
#if defined(MADV_HUGEPAGE)
  ::madvise(buffer.mutable_as<void>(), whole_pages, MADV_HUGEPAGE);  // a wish: without it pages are just small
#endif
  return buffer;
}

Buffer Buffer::borrow(std::span<const std::byte> bytes, std::shared_ptr<const void> owner, Device device) {
  Buffer buffer;
  buffer.owner_ = std::move(owner);
  buffer.data_ = bytes.data();
  buffer.size_ = bytes.size();
  buffer.device_ = device;
  return buffer;
}

}  // namespace nibble
