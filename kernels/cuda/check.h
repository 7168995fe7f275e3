// CUDA's status codes as nibble's errors.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <string>

#include "nibble/error.h"

namespace nibble {

/// Throws Error{kOutOfMemory, kUnsupported} with a sentence unless `status` is success. `what` says what was tried.
inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  const ErrorKind kind = status == cudaErrorMemoryAllocation ? ErrorKind::kOutOfMemory : ErrorKind::kUnsupported;
  throw Error(kind, std::string("device cuda: ") + what + " failed: " + cudaGetErrorString(status));
}

inline void check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error(ErrorKind::kUnsupported,
              std::string("device cuda: ") + what + " failed: " + cublasLtGetStatusString(status));
}

}  // namespace nibble
