// Matrices of a compute dtype that own their memory, for tests of the backend's verbs.
#pragma once

#include <array>
#include <string>

#include "kernels/cpu/backend.h"
#include "kernels/dispatch.h"
#include "tests/kernels/linear_cases.h"

namespace nibble {

inline constexpr std::array<DType, 3> kComputeDTypes = {DType::kF32, DType::kF16, DType::kBF16};

/// Half a unit in the last place of 1.
inline double epsilon(DType dtype) { return dtype == DType::kF32 ? 0x1p-24 : dtype == DType::kF16 ? 0x1p-11 : 0x1p-8; }

class Matrix {
 public:
  Matrix(DType dtype, int rows, int cols)
      : buffer_(Buffer::allocate(static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols) * size_of(dtype))),
        tensor_{buffer_.mutable_as<void>(), dtype, rows, cols} {}

  /// Values rounded to the dtype.
  Matrix(DType dtype, int rows, int cols, std::span<const float> values) : Matrix(dtype, rows, cols) {
    with_dtype(dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      for (std::size_t i = 0; i < values.size(); ++i) buffer_.mutable_as<T>()[i] = round_to<T>(values[i]);
    });
  }

  /// Random values.
  Matrix(DType dtype, int rows, int cols, std::uint32_t seed)
      : Matrix(dtype, rows, cols,
               random_values(static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols), seed)) {}

  Tensor tensor() const { return tensor_; }

  /// The memory itself: a row of it is what a bias or a LayerNorm parameter is.
  const Buffer& buffer() const { return buffer_; }

  Tensor rows(int first, int count) const {
    const std::size_t row_bytes = static_cast<std::size_t>(tensor_.cols) * size_of(tensor_.dtype);
    return {static_cast<std::byte*>(tensor_.data) + static_cast<std::size_t>(first) * row_bytes, tensor_.dtype, count,
            tensor_.cols};
  }

  std::vector<float> values() const {
    std::vector<float> values(static_cast<std::size_t>(tensor_.rows) * static_cast<std::size_t>(tensor_.cols));
    with_dtype(tensor_.dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = to_float(buffer_.as<T>()[i]);
    });
    return values;
  }

 private:
  Buffer buffer_;
  Tensor tensor_;
};

/// A name for a test's parameters: letters, digits and underscores.
inline std::string parameter_name(CpuTarget target, DType dtype) {
  std::string name = std::string(to_string(target)) + "_" + std::string(to_string(dtype));
  std::erase(name, '-');
  return name;
}

}  // namespace nibble
