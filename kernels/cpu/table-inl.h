// The table of a target's loops. A target file includes its vectors first, then this, then names the table.
#pragma once

#include <limits.h>
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

/// A target of lanes alone has one way for all rows.
template <class Layout, class T>
constexpr LinearKernels<Layout, T> only(const ProductWay<Layout, T>& way) {
  return {way, way, INT_MAX, decode_row<Layout, T>};
}

template <class Layout, class T>
constexpr LinearKernels<Layout, T> bytes_kernels() {
  return only<Layout, T>({1, turn_of_lanes, pack_bytes<Layout, T>, multiply_bytes<Layout, T>});
}

template <class Layout, class T>
constexpr LinearKernels<Layout, T> linear_kernels() {
  if constexpr (std::is_same_v<Layout, Int8Decomp>) {
    return bytes_kernels<Layout, T>();
  } else {
    return only<Layout, T>({1, turn_of_lanes, pack_row<Layout, T>, multiply<Layout, T>});
  }
}

template <class T, class... Layouts>
constexpr LayoutTable<T, std::variant<Layouts...>> layout_table(const LayoutTable<T, std::variant<Layouts...>>*) {
  return {linear_kernels<Layouts, T>()...};
}

template <class T>
constexpr DTypeKernels<T> dtype_kernels() {
  constexpr AttendWay<T> kInLanes{kLaneQueries, attend<T>};
  return {RowKernels<T>{layer_norm<T>, kInLanes, kInLanes, INT_MAX, add<T>, widen<T>, choose<T>},
          layout_table(static_cast<const LayoutTable<T, Weight>*>(nullptr)), bytes_kernels<Int8Row, T>()};
}

constexpr CpuKernels make_kernels() {
  return {dtype_kernels<float>(), dtype_kernels<Half>(), dtype_kernels<BFloat16>()};
}

}  // namespace
}  // namespace nibble
