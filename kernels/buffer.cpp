#include "kernels/buffer.h"

#include <new>
#include <string>

#include "nibble/error.h"

namespace nibble {
namespace {

/// A cache line, and the width of the widest vector register the kernels use.
constexpr std::align_val_t kAlignment{64};

}  // namespace

Buffer Buffer::allocate(std::size_t bytes) {
  void* data = ::operator new(bytes, kAlignment, std::nothrow);
  if (data == nullptr) {
    throw Error(ErrorKind::kOutOfMemory, "memory: " + std::to_string(bytes) + " bytes were refused by the system");
  }
  Buffer buffer;
  buffer.owner_ = std::shared_ptr<void>(data, [](void* memory) { ::operator delete(memory, kAlignment); });
  buffer.data_ = data;
  buffer.size_ = bytes;
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
