// Plain matrix products through cuBLASLt, with a linear's bias, activation and residual in its epilogue where it has
// them. The algorithm is chosen once for a weight's shape and a length of segments, without splitting sums, and serves
// any number of rows: a row's result depends on its own segment, not on how many rows there are.
#pragma once

#include <map>

#include "kernels/cuda/check.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/ways.h"

namespace nibble {

class Matmul {
 public:
  Matmul() { check(cublasLtCreate(&handle_), "starting cuBLASLt"); }
  ~Matmul() { cublasLtDestroy(handle_); }
  Matmul(const Matmul&) = delete;
  Matmul& operator=(const Matmul&) = delete;

  static constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;
  void use_workspace(std::byte* workspace) { workspace_ = workspace; }

  /// Columns [first, first + count) of y for rows [first_row, first_row + rows) of x, of segments of this length; `w`
  /// is T[count, k].
  template <class T>
  void multiply(const Launch& launch, const T* w, int first, int count, Tensor x, int first_row, int rows,
                Length length, const Projection& projection);

 private:
  struct Shape {
    DType dtype;
    int count, k, pitch;  ///< columns, and elements from one row of y to the next
    int epilogue;         ///< cublasLtEpilogue_t
    bool adds;            ///< a residual
    Length length;

    auto operator<=>(const Shape&) const = default;
  };

  cublasLtHandle_t handle_{};
  std::byte* workspace_ = nullptr;
  std::map<Shape, cublasLtMatmulAlgo_t> algorithms_;
};

}  // namespace nibble
