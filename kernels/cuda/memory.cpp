#include "kernels/cuda/memory.h"

#include <algorithm>
#include <cstring>
#include <string>

namespace nibble {
namespace {

constexpr std::size_t kAlignment = 256;

std::size_t aligned(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

Buffer allocate_alone(std::size_t bytes) {
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, bytes);
  if (status == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();  // an allocation that failed is no lasting error
    throw Error(ErrorKind::kOutOfMemory, "device cuda: " + std::to_string(bytes) + " bytes were refused by the driver");
  }
  check(status, "allocating memory");
  return Buffer::borrow({static_cast<const std::byte*>(data), bytes},
                        std::shared_ptr<void>(data, [](void* memory) { cudaFree(memory); }), Device::kCuda);
}

}  // namespace

DeviceMemory::~DeviceMemory() {
  for (int i = 0; i < 2; ++i) {
    if (copied_[i] != nullptr) cudaEventDestroy(copied_[i]);
    if (pinned_[i] != nullptr) cudaFreeHost(pinned_[i]);
  }
}

Buffer DeviceMemory::allocate(std::size_t bytes) {
  if (bytes == 0) return {};
  if (bytes >= kStretch / 2) return allocate_alone(bytes);
  if (stretch_.size() == 0 || used_ + bytes > kStretch) {
    stretch_ = allocate_alone(kStretch);
    used_ = 0;
  }
  const auto owner = std::make_shared<Buffer>(stretch_);
  Buffer piece = Buffer::borrow({stretch_.as<std::byte>() + used_, bytes}, owner, Device::kCuda);
  used_ += aligned(bytes);
  return piece;
}

Buffer DeviceMemory::upload(const Buffer& host) {
  Buffer device = allocate(host.size());
  copy(host.as<std::byte>(), host.size(), device.mutable_as<std::byte>());
  return device;
}

Buffer DeviceMemory::upload_table(const Buffer& host) {
  const auto [place, missing] = tables_.try_emplace(host.as<void>());
  if (missing) place->second = {host, upload(host)};
  return place->second.second;
}

const std::byte* DeviceMemory::stage(const Buffer& host) {
  if (staged_ + host.size() > staging_.size()) {
    finish();
    if (host.size() > staging_.size()) {
      staging_ = {};
      staging_ = allocate_alone(host.size());
    }
  }
  std::byte* place = staging_.mutable_as<std::byte>() + staged_;
  staged_ += aligned(host.size());
  copy(host.as<std::byte>(), host.size(), place);
  return place;
}

void DeviceMemory::finish() {
  check(cudaStreamSynchronize(stream_), "copying to the device");
  staged_ = 0;
}

void DeviceMemory::copy(const std::byte* from, std::size_t bytes, std::byte* to) {
  for (std::size_t done = 0; done < bytes; done += kPiece) {
    const std::size_t count = std::min(kPiece, bytes - done);
    std::byte*& pinned = pinned_[turn_];
    if (pinned == nullptr) {
      check(cudaMallocHost(reinterpret_cast<void**>(&pinned), kPiece), "allocating pinned memory");
      check(cudaEventCreateWithFlags(&copied_[turn_], cudaEventDisableTiming), "creating an event");
    } else {
      check(cudaEventSynchronize(copied_[turn_]), "copying to the device");
    }
    std::memcpy(pinned, from + done, count);
    check(cudaMemcpyAsync(to + done, pinned, count, cudaMemcpyHostToDevice, stream_), "copying to the device");
    check(cudaEventRecord(copied_[turn_], stream_), "copying to the device");
    turn_ ^= 1;
  }
}

}  // namespace nibble
