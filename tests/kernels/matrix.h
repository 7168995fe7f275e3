// Matrices of a compute dtype on a backend's device, and batches, for tests of the backend's verbs.
#pragma once

#include <array>
#include <cmath>
#include <limits>
#include <string>

#include "kernels/backend.h"
#include "kernels/dispatch.h"
#include "tests/kernels/linear_cases.h"

namespace nibble {

inline std::size_t index(int value) { return static_cast<std::size_t>(value); }

inline std::vector<float> decoded(const Weight& weight) {
  std::vector<float> values(index(rows(weight)) * index(cols(weight)));
  decode_all(weight, values);
  return values;
}

inline constexpr std::array<DType, 3> kComputeDTypes = {DType::kF32, DType::kF16, DType::kBF16};

/// Half a unit in the last place of 1.
inline double epsilon(DType dtype) { return dtype == DType::kF32 ? 0x1p-24 : dtype == DType::kF16 ? 0x1p-11 : 0x1p-8; }

/// Half of the smallest subnormal step, which rounding may add to small numbers.
inline double smallest(DType dtype) { return dtype == DType::kF16 ? 0x1p-25 : 0x1p-126; }

/// The most that rounding changes a value by.
inline double rounding(DType dtype, double value) {
  return std::max(std::fabs(value) * epsilon(dtype), smallest(dtype));
}

/// Values rounded to the dtype, in host memory.
inline Buffer host_buffer(DType dtype, std::span<const float> values) {
  return with_dtype(dtype, [&](auto tag) { return buffer_of<typename decltype(tag)::type>(values); });
}

class Matrix {
 public:
  /// Not a number anywhere, so that what a verb leaves out shows.
  Matrix(Backend& backend, DType dtype, int rows, int cols)
      : Matrix(backend, dtype, rows, cols,
               std::vector<float>(static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols),
                                  std::numeric_limits<float>::quiet_NaN())) {}

  /// Values rounded to the dtype.
  Matrix(Backend& backend, DType dtype, int rows, int cols, std::span<const float> values)
      : backend_(&backend),
        buffer_(backend.upload(host_buffer(dtype, values))),
        tensor_{buffer_.mutable_as<void>(), dtype, rows, cols} {}

  /// Random values.
  Matrix(Backend& backend, DType dtype, int rows, int cols, std::uint32_t seed)
      : Matrix(backend, dtype, rows, cols,
               random_values(static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols), seed)) {}

  Tensor tensor() const { return tensor_; }
  Tensor rows(int first, int count) const { return tensor_.slice(first, count); }

  /// The memory itself: a row of it is what a bias or a LayerNorm parameter is.
  const Buffer& buffer() const { return buffer_; }

  std::vector<float> values() const {
    std::vector<float> values(static_cast<std::size_t>(tensor_.rows) * static_cast<std::size_t>(tensor_.cols));
    backend_->copy_to_host(tensor_, values);
    return values;
  }

 private:
  Backend* backend_;
  Buffer buffer_;
  Tensor tensor_;
};

/// One segment of each length, of sequences 0, 1, ... that hold nothing yet.
inline std::vector<Segment> segments_of(const std::vector<int>& lengths) {
  std::vector<Segment> segments;
  int first_row = 0;
  for (const int length : lengths) {
    segments.push_back({static_cast<int>(segments.size()), first_row, length, 0});
    first_row += length;
  }
  return segments;
}

/// Begins a batch of these segments whose tokens and positions nobody looks at.
inline void begin(Backend& backend, std::span<const Segment> segments) {
  const int rows = segments.empty() ? 0 : segments.back().first_row + segments.back().rows;
  const std::vector<int> ids(static_cast<std::size_t>(rows));
  backend.begin({ids, ids, segments});
}

inline void begin(Backend& backend, std::initializer_list<int> lengths) { begin(backend, segments_of(lengths)); }

inline void project(Backend& backend, Tensor x, const Projection& projection) {
  backend.project(x, std::span(&projection, 1));
}

/// y = norm(x), which a linear that nobody looks at leaves.
inline void normalise(Backend& backend, const LayerNorm& norm, Tensor x, Tensor y) {
  const Linear linear{backend.prepare(random_dense<float>(1, x.cols, 1)), {}};
  const Matrix result(backend, x.dtype, x.rows, 1);
  backend.linear(norm, linear, x, y, result.tensor());
  backend.wait();  // for what ends here
}

/// A cache that holds no numbers yet.
inline KvCache make_cache(Backend& backend, DType dtype, int layers, int sequences, int heads, int context,
                          int head_dim) {
  const auto bytes = static_cast<std::size_t>(KvCache::bytes(dtype, layers, sequences, heads, context, head_dim)) / 2;
  const std::vector<float> nans(bytes / size_of(dtype), std::numeric_limits<float>::quiet_NaN());
  return {backend.upload(host_buffer(dtype, nans)),
          backend.upload(host_buffer(dtype, nans)),
          dtype,
          layers,
          sequences,
          heads,
          context,
          head_dim};
}

}  // namespace nibble
