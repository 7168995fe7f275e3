// Weights as plain floating-point numbers.
#pragma once

#include "kernels/buffer.h"
#include "kernels/numeric.h"

namespace nibble {

template <class T>
struct Dense {
  Buffer values;  ///< T[n, k]
  int n, k;

  struct View {
    const T* values;
    int n, k;

    NIBBLE_HD float decode(std::int64_t row, std::int64_t col) const { return to_float(values[row * k + col]); }
  };

  View view() const { return {values.as<T>(), n, k}; }
  std::uint64_t code_bytes() const { return values.size(); }
  std::uint64_t state_bytes() const { return 0; }
};

/// Whether a layout's weights stand as they are.
template <class Layout>
inline constexpr bool kIsDense = false;
template <class T>
inline constexpr bool kIsDense<Dense<T>> = true;

}  // namespace nibble
