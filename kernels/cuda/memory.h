// Memory of one GPU: pieces of larger stretches, and the way there through pinned memory.
#pragma once

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/buffer.h"
#include "kernels/cuda/check.h"
#include "kernels/thread_pool.h"

namespace nibble {

class Transfers;

/// Buffers share the stretches they are pieces of; the last one releases them. What is sent is there for what is asked
/// of the stream afterwards. One thread at a time.
class DeviceMemory {
 public:
  /// `threads` copy what is sent, once there is something; 0: one a core.
  DeviceMemory(cudaStream_t stream, int threads);
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  cudaStream_t stream() const { return stream_; }
  ThreadPool& pool();

  /// Makes one stretch for the next `buffers` buffers of `bytes` together. Throws Error{kOutOfMemory}.
  void make_room(std::uint64_t bytes, std::size_t buffers);
  /// Not initialised, 256-byte aligned. Without room made for them, buffers stand in stretches of kStretch bytes, or
  /// alone. Throws Error{kOutOfMemory}.
  Buffer allocate(std::size_t bytes);
  /// Working memory until the next call.
  Buffer temporary(std::size_t bytes);

  /// A copy on the device; the host's memory may go.
  Buffer upload(const Buffer& host);
  /// The same for a table of constants that many weights share: one copy.
  Buffer upload_table(const Buffer& host);

  /// A piece of host memory that is on its way to working memory.
  struct Piece {
    const std::byte* data;     ///< on the device
    std::size_t first, bytes;  ///< of the whole
    cudaStream_t stream;       ///< where kernels that read it are launched
  };
  /// Sends host memory in pieces, each a multiple of `unit` bytes, which is at most kPiece; calls `arrange` for each,
  /// from several threads, to launch what reads it.
  void stage(const Buffer& host, std::size_t unit, const std::function<void(const Piece&)>& arrange);

  static constexpr std::size_t kPiece = std::size_t{1} << 20;

 private:
  static constexpr std::size_t kStretch = std::size_t{16} << 20;

  Transfers& transfers();

  cudaStream_t stream_;
  int threads_;
  Buffer stretch_;
  std::size_t used_ = 0;  // of the stretch
  Buffer temporary_;
  std::vector<std::pair<Buffer, Buffer>> tables_;  // on the host, on the device
  std::unique_ptr<Transfers> transfers_;
};

/// Host memory that the device reads and writes itself, not initialised.
Buffer pinned_memory(std::size_t bytes);

/// Bytes that this process has on the device in stretches and working memory.
std::uint64_t allocated_device_bytes();

}  // namespace nibble
