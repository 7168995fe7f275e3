// Work that goes on beside the backend's stream.
#pragma once

#include "kernels/cuda/check.h"

namespace nibble {

/// A stream of its own, for which the backend's waits where it needs what was done there.
class Lane {
 public:
  Lane() {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "creating a stream");
    if (const cudaError_t status = cudaEventCreateWithFlags(&done_, cudaEventDisableTiming); status != cudaSuccess) {
      cudaStreamDestroy(stream_);
      check(status, "creating an event");
    }
  }
  ~Lane() {
    cudaStreamSynchronize(stream_);
    cudaEventDestroy(done_);
    cudaStreamDestroy(stream_);
  }
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  cudaStream_t stream() const { return stream_; }
  /// Notes what has been asked for so far.
  void mark() {
    check(cudaEventRecord(done_, stream_), "copying to the device");
    marked_ = true;
  }
  /// Until what was noted is done.
  void wait() const { check(cudaEventSynchronize(done_), "copying to the device"); }
  /// The same for another stream, once.
  void join(cudaStream_t stream) {
    if (!marked_) return;
    check(cudaStreamWaitEvent(stream, done_, 0), "copying to the device");
    marked_ = false;
  }

 private:
  cudaStream_t stream_{};
  cudaEvent_t done_{};
  bool marked_ = false;
};

}  // namespace nibble
