// Stands in for kernels/cuda/ in a build without CUDA.
#include "kernels/backend.h"
#include "kernels/roofline.h"
#include "nibble/error.h"

namespace nibble {
namespace {

[[noreturn]] void refuse() {
  throw Error(ErrorKind::kUnsupported,
              "device cuda: this nibble was built without CUDA; use the cpu, or build it where nvcc is installed");
}

}  // namespace

std::unique_ptr<Backend> make_cuda_backend(int) { refuse(); }

std::size_t cuda_scratch_bytes(const Extent&) { refuse(); }

std::uint64_t cuda_available_memory() { refuse(); }

std::uint64_t cuda_overhead_memory() { refuse(); }

double cuda_read_bandwidth() { refuse(); }

}  // namespace nibble
