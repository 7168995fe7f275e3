#include "kernels/cuda/memory.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>

#include "kernels/cuda/lane.h"

namespace nibble {
namespace {

constexpr std::size_t kAlignment = 256;

/// What the driver copies into the command itself (CUDA runtime API, "API synchronization behavior").
constexpr std::size_t kSmall = std::size_t{64} << 10;

std::atomic<std::uint64_t> allocated_bytes = 0;

std::size_t aligned(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

Buffer allocate_alone(std::size_t bytes) {
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, bytes);
  if (status == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();  // an allocation that failed is no lasting error
    throw Error(ErrorKind::kOutOfMemory, "device cuda: " + std::to_string(bytes) + " bytes were refused by the driver");
  }
  check(status, "allocating memory");
  allocated_bytes += bytes;
  const auto release = [bytes](void* memory) {
    cudaFree(memory);
    allocated_bytes -= bytes;
  };
  return Buffer::borrow({static_cast<const std::byte*>(data), bytes}, std::shared_ptr<void>(data, release),
                        Device::kCuda);
}

}  // namespace

Buffer pinned_memory(std::size_t bytes) {
  void* data = nullptr;
  check(cudaMallocHost(&data, bytes), "allocating pinned memory");
  return Buffer::borrow({static_cast<const std::byte*>(data), bytes},
                        std::shared_ptr<void>(data, [](void* memory) { cudaFreeHost(memory); }));
}

/// Threads with two lanes each: while one piece is on its way, the next one is copied into pinned memory.
class Transfers {
 public:
  explicit Transfers(int threads)
      : pool_(std::min(resolve_threads(threads), kMostThreads)),
        lanes_(2 * static_cast<std::size_t>(pool_.threads())),
        turns_(static_cast<std::size_t>(pool_.threads())),
        pinned_(pinned_memory(lanes_.size() * DeviceMemory::kPiece)),
        staging_(allocate_alone(lanes_.size() * DeviceMemory::kPiece)) {}

  ThreadPool& pool() { return pool_; }

  /// A piece in pinned memory, the room for it in working memory, and its place in the whole.
  struct Place {
    const std::byte* pinned;
    std::byte* staging;
    std::size_t first, bytes;
    cudaStream_t stream;
  };
  /// Calls carry(place) for each piece; `stream` then waits for what that asked for.
  template <class F>
  void send(const Buffer& host, std::size_t unit, cudaStream_t stream, F&& carry) {
    if (unit > DeviceMemory::kPiece) {
      throw Error(ErrorKind::kUnsupported, "device cuda: expected rows of at most " +
                                               std::to_string(DeviceMemory::kPiece) + " bytes, found " +
                                               std::to_string(unit));
    }
    const std::size_t piece = DeviceMemory::kPiece / unit * unit;
    const auto run = [&](int task, int thread) {
      const auto mine = static_cast<std::size_t>(thread);
      const std::size_t index = 2 * mine + (turns_[mine] ^= 1U);
      Lane& lane = lanes_[index];
      lane.wait();
      const std::size_t first = static_cast<std::size_t>(task) * piece, bytes = std::min(piece, host.size() - first);
      std::byte* pinned = pinned_.mutable_as<std::byte>() + index * DeviceMemory::kPiece;
      std::memcpy(pinned, host.as<std::byte>() + first, bytes);
      carry(
          Place{pinned, staging_.mutable_as<std::byte>() + index * DeviceMemory::kPiece, first, bytes, lane.stream()});
      lane.mark();
    };
    pool_.run(static_cast<int>((host.size() + piece - 1) / piece), run);
    for (Lane& lane : lanes_) lane.join(stream);
  }

  /// What goes with the command itself.
  void send_small(const Buffer& host, std::byte* to, cudaStream_t stream) {
    check(cudaMemcpyAsync(to, host.as<std::byte>(), host.size(), cudaMemcpyHostToDevice, small_.stream()),
          "copying to the device");
    small_.mark();
    small_.join(stream);
  }

 private:
  static constexpr int kMostThreads = 16;  // more pin more memory and bring nothing

  ThreadPool pool_;
  std::vector<Lane> lanes_;
  std::vector<unsigned> turns_;  // of each thread
  Buffer pinned_, staging_;      // a piece for each lane
  Lane small_;
};

DeviceMemory::DeviceMemory(cudaStream_t stream, int threads) : stream_(stream), threads_(threads) {}

DeviceMemory::~DeviceMemory() = default;

Transfers& DeviceMemory::transfers() {
  if (transfers_ == nullptr) transfers_ = std::make_unique<Transfers>(threads_);
  return *transfers_;
}

ThreadPool& DeviceMemory::pool() { return transfers().pool(); }

void DeviceMemory::make_room(std::uint64_t bytes, std::size_t buffers) {
  constexpr std::size_t kTables = 4096;  // which weights share
  stretch_ = {};
  used_ = 0;
  stretch_ = allocate_alone(aligned(static_cast<std::size_t>(bytes) + buffers * kAlignment + kTables));
}

Buffer DeviceMemory::allocate(std::size_t bytes) {
  if (bytes == 0) return {};
  if (used_ + bytes > stretch_.size()) {
    if (bytes >= kStretch / 2) return allocate_alone(bytes);
    stretch_ = allocate_alone(kStretch);
    used_ = 0;
  }
  const auto owner = std::make_shared<Buffer>(stretch_);
  Buffer piece = Buffer::borrow({stretch_.as<std::byte>() + used_, bytes}, owner, Device::kCuda);
  used_ += aligned(bytes);
  return piece;
}

Buffer DeviceMemory::temporary(std::size_t bytes) {
  if (bytes > temporary_.size()) {
    temporary_ = {};
    temporary_ = allocate_alone(bytes);
  }
  return temporary_;
}

Buffer DeviceMemory::upload(const Buffer& host) {
  Buffer device = allocate(host.size());
  auto* to = device.mutable_as<std::byte>();
  if (host.size() <= kSmall) {
    if (host.size() > 0) transfers().send_small(host, to, stream_);
    return device;
  }
  transfers().send(host, 1, stream_, [to](const Transfers::Place& place) {
    check(cudaMemcpyAsync(to + place.first, place.pinned, place.bytes, cudaMemcpyHostToDevice, place.stream),
          "copying to the device");
  });
  return device;
}

Buffer DeviceMemory::upload_table(const Buffer& host) {
  const auto is_same = [&](const auto& table) {
    return table.first.size() == host.size() &&
           std::memcmp(table.first.template as<void>(), host.as<void>(), host.size()) == 0;
  };
  const auto known = std::ranges::find_if(tables_, is_same);
  if (known != tables_.end()) return known->second;
  return tables_.emplace_back(host, upload(host)).second;
}

void DeviceMemory::stage(const Buffer& host, std::size_t unit, const std::function<void(const Piece&)>& arrange) {
  transfers().send(host, unit, stream_, [&](const Transfers::Place& place) {
    check(cudaMemcpyAsync(place.staging, place.pinned, place.bytes, cudaMemcpyHostToDevice, place.stream),
          "copying to the device");
    arrange({place.staging, place.first, place.bytes, place.stream});
  });
}

std::uint64_t allocated_device_bytes() { return allocated_bytes; }

}  // namespace nibble
