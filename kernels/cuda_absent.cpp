// Stands in for kernels/cuda/ in a build without CUDA.
#include "kernels/backend.h"
#include "nibble/error.h"

namespace nibble {

std::unique_ptr<Backend> make_cuda_backend() {
  throw Error(ErrorKind::kUnsupported,
              "device cuda: this nibble was built without CUDA; use the cpu, or build it where nvcc is installed");
}

}  // namespace nibble
