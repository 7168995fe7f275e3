// What transformers computed on the checkpoints in tests/golden/models (made by scripts/golden/models.py).
#pragma once

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "kernels/numeric.h"
#include "models/checkpoint/checkpoint.h"
#include "tests/places.h"

namespace nibble::testing {

inline std::string golden_model(const std::string& name) { return fixtures_dir() + "/models/" + name; }

/// The tensors of one case's expected.safetensors, or of another file there.
class Expected {
 public:
  explicit Expected(const std::string& name, const std::string& file = "expected.safetensors")
      : file_(open_safetensors(golden_model(name) + "/" + file)) {}

  bool has(const std::string& tensor) const { return find(tensor) < file_->tensors().size(); }

  std::vector<float> floats(const std::string& tensor) const { return read<float, float>(tensor); }
  std::vector<int> ints(const std::string& tensor) const { return read<std::int64_t, int>(tensor); }
  std::vector<std::byte> bytes(const std::string& tensor) const {
    const HostTensor data = file_->read(find(tensor));
    return {data.data.begin(), data.data.end()};
  }
  const std::vector<std::int64_t>& shape(const std::string& tensor) const {
    return file_->tensors().at(find(tensor)).shape;
  }

 private:
  std::size_t find(const std::string& tensor) const {
    std::size_t i = 0;
    while (i < file_->tensors().size() && file_->tensors()[i].name != tensor) ++i;
    return i;
  }

  template <class Stored, class T>
  std::vector<T> read(const std::string& tensor) const {
    const HostTensor data = file_->read(find(tensor));
    const auto* values = reinterpret_cast<const Stored*>(data.data.data());
    std::vector<T> result;
    for (std::size_t i = 0; i < data.data.size() / sizeof(Stored); ++i) result.push_back(static_cast<T>(values[i]));
    return result;
  }

  std::unique_ptr<TensorFile> file_;
};

/// ||found - expected|| / ||expected||
inline double relative_error(std::span<const float> found, std::span<const float> expected) {
  double difference = 0;
  double norm = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double d = static_cast<double>(found[i]) - static_cast<double>(expected[i]);
    difference += d * d;
    norm += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
  }
  return std::sqrt(difference / norm);
}

/// How far two correct implementations may be apart, as a relative error of the logits. Both round to the dtype (unit
/// roundoff u) after each of about 12 operations a layer and 4 around them; rounding errors are independent, so they
/// add as a random walk, on both sides: u * sqrt(2 * (12 L + 4)). Attention and LayerNorm carry a relative error on
/// with a gain that is below 4 for these models (measured by perturbing their embeddings by u).
inline double tolerance(DType dtype, int layers) {
  const double u = dtype == DType::kF32 ? 0x1p-24 : dtype == DType::kF16 ? 0x1p-11 : 0x1p-9;
  // In fp32 the sums inside a dot product round too: sqrt(k) times, k up to 640 in these models.
  const double inside = dtype == DType::kF32 ? std::sqrt(640.0) : 1.0;
  return 4.0 * inside * u * std::sqrt(2.0 * (12.0 * layers + 4.0));
}

}  // namespace nibble::testing
