// Weights as floating-point tensors: X.weight [n, k] in fp32, fp16 or bf16.
#include "kernels/dispatch.h"
#include "models/formats/format.h"

namespace nibble {
namespace {

bool is_compute_dtype(DType dtype) { return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16; }

bool claims(const Checkpoint& checkpoint, const std::string& name) {
  const TensorInfo* weight = checkpoint.find(name + ".weight");
  return weight != nullptr && is_compute_dtype(weight->dtype);
}

MatrixInfo describe(const Checkpoint& checkpoint, const std::string& name) {
  const TensorInfo& weight = require_tensor(checkpoint, name + ".weight");
  const auto [n, k] = require_matrix(weight);
  return {{Scheme::kNone, weight.dtype, 0}, n, k, weight.shape, std::string(to_string(weight.dtype))};
}

Weight read(const Checkpoint& checkpoint, const std::string& name) {
  const TensorInfo& weight = require_tensor(checkpoint, name + ".weight");
  const auto [n, k] = require_matrix(weight);
  return with_dtype(weight.dtype, [&, n = static_cast<int>(n), k = static_cast<int>(k)](auto tag) -> Weight {
    return Dense<typename decltype(tag)::type>{read_buffer(checkpoint, weight), n, k};
  });
}

template <class T>
std::vector<OutputTensor> output(const Dense<T>& weight, const std::string& name) {
  return {{{name + ".weight", kDTypeOf<T>, {weight.n, weight.k}, {}}, weight.values}};
}

}  // namespace

const Format kDenseFormat{"dense", claims, describe, read};

std::vector<OutputTensor> write_tensors(const Dense<float>& w, const std::string& name, DType) {
  return output(w, name);
}
std::vector<OutputTensor> write_tensors(const Dense<Half>& w, const std::string& name, DType) {
  return output(w, name);
}
std::vector<OutputTensor> write_tensors(const Dense<BFloat16>& w, const std::string& name, DType) {
  return output(w, name);
}

}  // namespace nibble
