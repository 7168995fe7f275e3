// CUDA's status codes as nibble's errors.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include "nibble/error.h"

namespace nibble {

/// Throws Error{kOutOfMemory, kUnsupported} with a sentence. `what` says what was tried.
[[noreturn]] void fail(cudaError_t status, const char* what);
[[noreturn]] void fail(cublasStatus_t status, const char* what);

/// The same unless `status` is success.
inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) fail(status, what);
}
inline void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) fail(status, what);
}

}  // namespace nibble
