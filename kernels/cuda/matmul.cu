#include "kernels/cuda/matmul.h"

#include "kernels/cuda/launch.h"

namespace nibble {
namespace {

template <class T>
constexpr cudaDataType_t kCudaType = CUDA_R_32F;
template <>
constexpr cudaDataType_t kCudaType<Half> = CUDA_R_16F;
template <>
constexpr cudaDataType_t kCudaType<BFloat16> = CUDA_R_16BF;

/// Descriptions that need no memory but their own: a product is described for every piece of an expanded weight.
struct Layout {
  cublasLtMatrixLayoutOpaque_t value{};
  Layout(cudaDataType_t type, int rows, int cols, int pitch) {
    check(cublasLtMatrixLayoutInit(&value, type, static_cast<std::uint64_t>(rows), static_cast<std::uint64_t>(cols),
                                   pitch),
          "describing a matrix");
  }
};

struct Description {
  cublasLtMatmulDescOpaque_t value{};
  Description() { check(cublasLtMatmulDescInit(&value, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describing a product"); }
  template <class V>
  void set(cublasLtMatmulDescAttributes_t attribute, const V& v) {
    check(cublasLtMatmulDescSetAttribute(&value, attribute, &v, sizeof v), "describing a product");
  }
};

struct Preference {
  cublasLtMatmulPreferenceOpaque_t value{};
  Preference() { check(cublasLtMatmulPreferenceInit(&value), "describing a preference"); }
  template <class V>
  void set(cublasLtMatmulPreferenceAttributes_t attribute, const V& v) {
    check(cublasLtMatmulPreferenceSetAttribute(&value, attribute, &v, sizeof v), "describing a preference");
  }
};

/// What of `finish` the product's epilogue has not done, in place.
template <class T>
__global__ void finish_kernel(Finish<T> finish, int first, int count, int n) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  const std::int64_t row = blockIdx.y;
  const int column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= count) return;
  const std::int64_t place = row * n + first + column;
  finish(to_f32(finish.y[place]), finish.fetch(first + column, place), place);
}

}  // namespace

template <class T>
void Matmul::multiply(const Launch& launch, const T* w, int first, int count, Tensor x, int first_row, int rows,
                      Length length, const Projection& projection) {
  Finish<T> finish(projection, first_row);
  const int n = projection.y.cols;
  const int k = x.cols;
  const bool plain = finish.scale == 1.0F;
  const bool relu = plain && finish.activation == Activation::kRelu;
  const bool adds = plain && finish.activation == Activation::kIdentity && finish.residual != nullptr;
  const T* const bias = finish.bias == nullptr ? nullptr : finish.bias + first;

  const cublasLtEpilogue_t epilogue = relu ? (bias != nullptr ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU)
                                           : (bias != nullptr ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT);
  Description product;
  product.set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  product.set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
  if (bias != nullptr) {
    product.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
    product.set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, kCudaType<T>);
  }
  // cuBLAS counts by columns: y^T [n, rows] = w^T^T x^T.
  Layout a(kCudaType<T>, k, count, k), b(kCudaType<T>, k, rows, k), c(kCudaType<T>, count, rows, n);

  const auto [place, missing] = algorithms_.try_emplace(Shape{kDTypeOf<T>, count, k, n, epilogue, adds, length});
  if (missing) {
    Preference preference;
    preference.set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{kWorkspaceBytes});
    preference.set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, std::uint32_t{CUBLASLT_REDUCTION_SCHEME_NONE});
    // For few rows and far more columns than rows of w, whose sums it may not split, cuBLASLt chooses kernels from
    // before Hopper, three times as slow as what it chooses for a square. So it is asked about a square first.
    cublasLtMatmulHeuristicResult_t found{};
    cublasStatus_t status = CUBLAS_STATUS_NOT_SUPPORTED;
    for (const int columns : {std::min(k, n), k}) {
      const int typical = typical_rows(std::max(length, Length::kShort));  // algorithms for fewer were not measured
      Layout typical_a(kCudaType<T>, columns, count, columns), typical_b(kCudaType<T>, columns, typical, columns),
          typical_c(kCudaType<T>, count, typical, n);
      int number = 0;
      status =
          cublasLtMatmulAlgoGetHeuristic(handle_, &product.value, &typical_a.value, &typical_b.value, &typical_c.value,
                                         &typical_c.value, &preference.value, 1, &found, &number);
      if (status == CUBLAS_STATUS_SUCCESS && number == 0) status = CUBLAS_STATUS_NOT_SUPPORTED;
      if (status != CUBLAS_STATUS_SUCCESS) continue;
      cublasLtMatmulHeuristicResult_t checked{};
      status = cublasLtMatmulAlgoCheck(handle_, &product.value, &a.value, &b.value, &c.value, &c.value, &found.algo,
                                       &checked);
      if (status == CUBLAS_STATUS_SUCCESS) break;
    }
    if (status != CUBLAS_STATUS_SUCCESS) {
      algorithms_.erase(place);
      check(status, "choosing a product's algorithm");
    }
    place->second = found.algo;
  }
  T* const y = finish.y + first;
  const T* const added = adds ? finish.residual + first : y;
  const float one = 1.0F, beta = adds ? 1.0F : 0.0F;
  check(cublasLtMatmul(handle_, &product.value, &one, w, &a.value, x.row<T>(first_row), &b.value, &beta, added,
                       &c.value, y, &c.value, &place->second, workspace_, kWorkspaceBytes, launch.stream),
        "multiplying");

  const bool done =
      adds || (plain && finish.residual == nullptr && (relu || finish.activation == Activation::kIdentity));
  if (done) return;
  finish.bias = nullptr;
  if (relu) finish.activation = Activation::kIdentity;
  const dim3 grid(static_cast<unsigned>((count + 255) / 256), static_cast<unsigned>(rows));
  launch_overlapped(launch, finish_kernel<T>, grid, 256, 0, finish, first, count, n);
}

template void Matmul::multiply<float>(const Launch&, const float*, int, int, Tensor, int, int, Length,
                                      const Projection&);
template void Matmul::multiply<Half>(const Launch&, const Half*, int, int, Tensor, int, int, Length, const Projection&);
template void Matmul::multiply<BFloat16>(const Launch&, const BFloat16*, int, int, Tensor, int, int, Length,
                                         const Projection&);

}  // namespace nibble
