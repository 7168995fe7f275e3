// Memory that weights and activations live in, and views of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "nibble/types.h"

namespace nibble {

/// A stretch of memory on one device. Copies share it; the last one releases it. Host memory is 64-byte aligned when
/// allocated here; borrowed memory (a mapped file) has its owner's alignment.
class Buffer {
 public:
  Buffer() = default;

  /// Host memory, not initialised. Throws Error{kOutOfMemory}.
  static Buffer allocate(std::size_t bytes);

  /// The same for what is written once and read from end to end in every step: in pages of 2 MiB where the system gives
  /// them, of which fewer have to be found. Buffers smaller than such a page lie side by side in stretches of 32 MiB,
  /// each given back with the last of its buffers: not for what is dropped while others stay. Any thread may call it
  /// and drop what it returned. Throws Error{kOutOfMemory}.
  static Buffer allocate_in_huge_pages(std::size_t bytes);

  /// Memory somebody else made; `owner` keeps it alive.
  static Buffer borrow(std::span<const std::byte> bytes, std::shared_ptr<const void> owner,
                       Device device = Device::kCpu);

  std::size_t size() const { return size_; }
  Device device() const { return device_; }
  template <class T>
  const T* as() const {
    return static_cast<const T*>(data_);
  }
  /// Only for the code that fills a buffer it has just allocated, and for working memory.
  template <class T>
  T* mutable_as() {
    return static_cast<T*>(const_cast<void*>(data_));
  }

 private:
  static Buffer allocate_beside_others(std::size_t bytes);
  static Buffer allocate_aligned(std::size_t bytes, std::size_t alignment);

  std::shared_ptr<const void> owner_;
  const void* data_ = nullptr;
  std::size_t size_ = 0;
  Device device_ = Device::kCpu;
};

/// A row-major, contiguous matrix of a compute dtype, owned by somebody else.
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int rows = 0;
  int cols = 0;

  template <class T>
  T* row(int r) const {
    return static_cast<T*>(data) + static_cast<std::ptrdiff_t>(r) * cols;
  }
  /// Rows [first, first + count).
  Tensor slice(int first, int count) const {
    const std::ptrdiff_t row_bytes = static_cast<std::ptrdiff_t>(cols) * static_cast<std::ptrdiff_t>(size_of(dtype));
    return {static_cast<std::byte*>(data) + first * row_bytes, dtype, count, cols};
  }
  std::size_t bytes() const { return static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols) * size_of(dtype); }
};

}  // namespace nibble
