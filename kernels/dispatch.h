// From values to types: the only switch over compute dtypes and the only visit of weight layouts.
#pragma once

#include <utility>
#include <variant>

#include "kernels/layout/weight.h"
#include "kernels/numeric.h"
#include "nibble/error.h"

namespace nibble {

template <class T>
struct TypeTag {
  using type = T;
};

/// Calls f(TypeTag<T>{}) for the compute dtype's T.
template <class F>
decltype(auto) with_dtype(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kF32:
      return std::forward<F>(f)(TypeTag<float>{});
    case DType::kF16:
      return std::forward<F>(f)(TypeTag<Half>{});
    case DType::kBF16:
      return std::forward<F>(f)(TypeTag<BFloat16>{});
    default:
      throw Error(ErrorKind::kInvalidArgument,
                  "expected a compute dtype (fp32, fp16, bf16), found " + std::string(to_string(dtype)));
  }
}

/// Calls f(layout) for the layout the weight has.
template <class F>
decltype(auto) with_layout(const Weight& weight, F&& f) {
  return std::visit(std::forward<F>(f), weight);
}

}  // namespace nibble
