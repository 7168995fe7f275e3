// 64 signed bytes of w and of x and the lanes of their product, in plain C++.
#pragma once

#include <cstdint>

#include "kernels/numeric.h"

namespace nibble {
namespace {

/// Taken onto bytes of w.
constexpr int kByteOffset = 0;

struct Bytes64 {
  std::int8_t bytes[64];
};
NIBBLE_HD Bytes64 load_factor_bytes(const std::int8_t* x) {
  Bytes64 result;
  __builtin_memcpy(result.bytes, x, sizeof result.bytes);
  return result;
}
NIBBLE_HD Bytes64 load_weight_bytes(const std::int8_t* w) { return load_factor_bytes(w); }

struct I32x16 {
  std::int32_t lanes[16];
};
NIBBLE_HD I32x16 load(const std::int32_t* values) {
  I32x16 result;
  __builtin_memcpy(result.lanes, values, sizeof result.lanes);
  return result;
}
NIBBLE_HD I32x16 accumulate(const I32x16& total, const Bytes64& w, const Bytes64& x) {
  I32x16 result = total;
  for (int i = 0; i < 64; ++i) result.lanes[i / 4] += w.bytes[i] * x.bytes[i];
  return result;
}
NIBBLE_HD F32x16 to_f32(const I32x16& v) {
  float values[16];
  for (int i = 0; i < 16; ++i) values[i] = static_cast<float>(v.lanes[i]);
  return load(values);
}

}  // namespace
}  // namespace nibble
