#include "kernels/buffer.h"

#include <sys/mman.h>

#include <mutex>
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

/// In the stretch that is being filled. Its buffers alone own it.
Buffer Buffer::allocate_beside_others(std::size_t bytes) {
  constexpr std::size_t kStretch = 16 * kHugePage;  // of which pages that nobody writes to take no memory
  static std::mutex mutex;
  static std::weak_ptr<const Buffer> filling;
  static std::size_t used = 0;
  const std::lock_guard lock(mutex);
  const std::size_t whole_lines = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  std::shared_ptr<const Buffer> stretch = filling.lock();
  if (stretch == nullptr || whole_lines > kStretch - used) {
    stretch = std::make_shared<const Buffer>(allocate_in_huge_pages(kStretch));
    filling = stretch;
    used = 0;
  }
  const std::byte* data = stretch->as<std::byte>() + used;
  used += whole_lines;
  return borrow({data, bytes}, stretch);
}

Buffer Buffer::allocate_in_huge_pages(std::size_t bytes) {
  const std::size_t whole_pages = bytes / kHugePage * kHugePage;
  if (whole_pages == 0) return allocate_beside_others(bytes);
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
