// Work that goes on beside the backend's stream.
#pragma once

#include "kernels/cuda/handles.h"

namespace nibble {

/// A stream of its own, for which the backend's waits where it needs what was done there.
class Lane {
 public:
  Lane() = default;
  ~Lane() { cudaStreamSynchronize(stream()); }
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  cudaStream_t stream() const { return stream_.get(); }
  /// Notes what has been asked for so far.
  void mark() {
    check(cudaEventRecord(done_.get(), stream()), "copying to the device");
    marked_ = true;
  }
  /// Until what was noted is done.
  void wait() const { check(cudaEventSynchronize(done_.get()), "copying to the device"); }
  /// The same for another stream, once.
  void join(cudaStream_t stream) {
    if (!marked_) return;
    check(cudaStreamWaitEvent(stream, done_.get(), 0), "copying to the device");
    marked_ = false;
  }

 private:
  Stream stream_ = make_stream();
  Event done_ = make_event();
  bool marked_ = false;
};

}  // namespace nibble
