#include "kernels/cuda/check.h"

#include <string>

namespace nibble {
namespace {

/// Whether every later call of the process will fail too (CUDA runtime API, cudaError).
bool is_lost(cudaError_t status) {
  switch (status) {
    case cudaErrorIllegalAddress:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorIllegalInstruction:
    case cudaErrorHardwareStackError:
    case cudaErrorAssert:
    case cudaErrorLaunchTimeout:
    case cudaErrorLaunchFailure:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContained:
    case cudaErrorDevicesUnavailable:
    case cudaErrorUnknown:
      return true;
    default:
      return false;
  }
}

}  // namespace

void fail(cudaError_t status, const char* what) {
  const ErrorKind kind = status == cudaErrorMemoryAllocation ? ErrorKind::kOutOfMemory : ErrorKind::kUnsupported;
  throw Error(kind, std::string("device cuda: ") + what + " failed: " + cudaGetErrorString(status) +
                        (is_lost(status) ? "; the GPU is lost to this process, which has to be started again" : ""));
}

void fail(cublasStatus_t status, const char* what) {
  throw Error(ErrorKind::kUnsupported,
              std::string("device cuda: ") + what + " failed: " + cublasLtGetStatusString(status));
}

}  // namespace nibble
