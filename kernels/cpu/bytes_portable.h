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
NIBBLE_HD Bytes64 load_factor_bytes(const std::int8_t* x) { return load_as<Bytes64>(x); }
NIBBLE_HD Bytes64 load_weight_bytes(const std::int8_t* w) { return load_factor_bytes(w); }

NIBBLE_HD I32x16 accumulate(const I32x16& total, const Bytes64& w, const Bytes64& x) {
  I32x16 result = total;
  for (int i = 0; i < 64; ++i) result.lanes[i / 4] += w.bytes[i] * x.bytes[i];
  return result;
}

}  // namespace
}  // namespace nibble
