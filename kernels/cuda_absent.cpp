// Stands in for kernels/cuda/ in a build without CUDA.
#include "kernels/backend.h"
#include "kernels/roofline.h"
#include "nibble/error.h"

namespace nibble {
namespace {

[[noreturn]] void fail() {
  throw Error(ErrorKind::kUnsupported,
              "device cuda: this nibble was built without CUDA; use the cpu, or build it where nvcc is installed");
}

}  // namespace

std::unique_ptr<Backend> make_cuda_backend() { fail(); }
double cuda_read_bandwidth() { fail(); }

}  // namespace nibble
