// The table of a target's loops. A target file includes its vectors first, then this, then names the table.
#pragma once

#include <math.h>

// In this order: each builds on the one before.
#include "kernels/cpu/lanes-inl.h"

#include "kernels/cpu/decode-inl.h"
#include "kernels/cpu/linear-inl.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/sampling-inl.h"

#include "kernels/cpu/bytes-inl.h"

namespace nibble {
namespace {

template <class T, class... Layouts>
constexpr LayoutTable<T, std::variant<Layouts...>> layout_table(const LayoutTable<T, std::variant<Layouts...>>*) {
  return {LinearKernels<Layouts, T>{pack_row<Layouts, T>, sizeof(typename OperandOf<T>::Element), multiply<Layouts, T>,
                                    decode_row<Layouts, T>}...};
}

template <class T>
constexpr DTypeKernels<T> dtype_kernels() {
  return {RowKernels<T>{layer_norm<T>, attend<T>, add<T>, widen<T>, choose<T>},
          layout_table(static_cast<const LayoutTable<T, Weight>*>(nullptr)),
          {pack_bytes<T>, sizeof(std::int8_t), multiply_bytes<T>, decode_row<Int8Row, T>}};
}

constexpr CpuKernels make_kernels() {
  return {dtype_kernels<float>(), dtype_kernels<Half>(), dtype_kernels<BFloat16>()};
}

}  // namespace
}  // namespace nibble
