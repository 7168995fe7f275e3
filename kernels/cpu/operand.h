// A group of 32 factors of a dot product, of x or of w, and how they are stored when packed. Included after a target's
// vectors.
#pragma once

namespace nibble {
namespace {

struct F32x32 {
  using Element = float;
  F32x16 first, second;
};

template <class Operand>
NIBBLE_HD Operand make_operand(const F32x16& first, const F32x16& second);
template <>
NIBBLE_HD F32x32 make_operand<F32x32>(const F32x16& first, const F32x16& second) {
  return {first, second};
}

template <class Operand>
NIBBLE_HD Operand load_operand(const typename Operand::Element* packed);
template <>
NIBBLE_HD F32x32 load_operand<F32x32>(const float* packed) {
  return {load(packed), load(packed + 16)};
}

NIBBLE_HD void store_operand(float* packed, const F32x32& v) {
  store(packed, v.first);
  store(packed + 16, v.second);
}

/// Adds the 32 products to the lanes of `total`, two a lane.
NIBBLE_HD F32x16 accumulate(const F32x16& total, const F32x32& w, const F32x32& x) {
  return fma(w.second, x.second, fma(w.first, x.first, total));
}

}  // namespace
}  // namespace nibble
