#include "models/checkpoint/host_buffer.h"

#include <algorithm>
#include <new>

#include "nibble/error.h"

namespace nibble {

HostBuffer allocate(std::uint64_t bytes, const std::string& what) {
  // operator new aligns for std::max_align_t, which is at least the largest element.
  void* memory = ::operator new(bytes, std::nothrow);
  if (memory == nullptr) {
    throw Error(ErrorKind::kOutOfMemory, what + ": cannot allocate " + std::to_string(bytes) + " bytes to read it");
  }
  return {{static_cast<std::byte*>(memory), bytes},
          std::shared_ptr<void>(memory, [](void* block) { ::operator delete(block); })};
}

HostTensor aligned(std::span<const std::byte> data, std::shared_ptr<const void> owner, DType dtype,
                   const std::string& what) {
  if (reinterpret_cast<std::uintptr_t>(data.data()) % size_of(dtype) == 0) return {data, std::move(owner)};
  const HostBuffer copy = allocate(data.size(), what);
  std::ranges::copy(data, copy.data.begin());
  return {copy.data, copy.owner};
}

}  // namespace nibble
