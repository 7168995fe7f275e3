// Memory of one GPU: pieces of larger stretches, and copies through pinned memory.
#pragma once

#include <map>
#include <memory>

#include "kernels/buffer.h"
#include "kernels/cuda/check.h"

namespace nibble {

/// Buffers share the stretches they are pieces of; the last one releases them. One thread at a time.
class DeviceMemory {
 public:
  explicit DeviceMemory(cudaStream_t stream) : stream_(stream) {}
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  cudaStream_t stream() const { return stream_; }

  /// Not initialised, 256-byte aligned. Small pieces stand together in stretches of kStretch bytes. Throws
  /// Error{kOutOfMemory}.
  Buffer allocate(std::size_t bytes);
  Buffer upload(const Buffer& host);
  /// The same for a constant table that many weights share: one copy.
  Buffer upload_table(const Buffer& host);

  /// A copy in working memory that a kernel reads from next; valid until `finish`.
  const std::byte* stage(const Buffer& host);
  /// Waits for all copies and for the kernels that read staged ones.
  void finish();

 private:
  static constexpr std::size_t kStretch = std::size_t{16} << 20;
  static constexpr std::size_t kPiece = std::size_t{16} << 20;  // of pinned memory; two take turns

  void copy(const std::byte* from, std::size_t bytes, std::byte* to);

  cudaStream_t stream_;
  Buffer stretch_;
  std::size_t used_ = 0;                                     // of the stretch
  std::map<const void*, std::pair<Buffer, Buffer>> tables_;  // host memory: itself, kept alive, and its copy
  Buffer staging_;
  std::size_t staged_ = 0;
  std::byte* pinned_[2] = {};
  cudaEvent_t copied_[2] = {};
  int turn_ = 0;
};

}  // namespace nibble
