// What the loops need from sixteen lanes beyond a target's own operations: parts of vectors, rounding, functions.
#pragma once

#include "kernels/activation.h"

namespace nibble {
namespace {

/// `count` values from 1 to 16; the other lanes are zero.
template <class T>
NIBBLE_HD F32x16 load_some(const T* values, int count) {
  if (count == 16) return load(values);
  T some[16] = {};
  for (int i = 0; i < count; ++i) some[i] = values[i];
  return load(some);
}

template <class T>
NIBBLE_HD void store_some(T* values, const F32x16& v, int count) {
  if (count == 16) return store(values, v);
  T some[16];
  store(some, v);
  for (int i = 0; i < count; ++i) values[i] = some[i];
}

/// The first `count` lanes; the others are zero.
NIBBLE_HD F32x16 first_lanes(const F32x16& v, int count) {
  float lanes[16];
  store(lanes, v);
  return load_some(lanes, count);
}

/// The value each lane becomes when it is stored as T.
template <class T>
NIBBLE_HD F32x16 rounded_to(const F32x16& v) {
  if constexpr (sizeof(T) == sizeof(float)) {
    return v;
  } else {
    T lanes[16];
    store(lanes, v);
    return load(lanes);
  }
}

/// e^x to 2 units in the last place; x below -87 counts as -87, and above 88 as 88. Range reduction by powers of two
/// and Taylor's polynomial, whose error on |r| <= ln(2)/2 is below fp32's.
NIBBLE_HD F32x16 exp(const F32x16& x) {
  const F32x16 magic = broadcast(0x1.8p23F);  // adding it rounds to a whole number
  const F32x16 limited = max(broadcast(-87.0F), broadcast(0) - max(broadcast(-88.0F), broadcast(0) - x));
  const F32x16 n = fma(limited, broadcast(1.44269504F), magic) - magic;
  const F32x16 r = fma(n, broadcast(-1.42860677e-6F), fma(n, broadcast(-0.693145752F), limited));
  F32x16 p = broadcast(1.0F / 5040);
  p = fma(p, r, broadcast(1.0F / 720));
  p = fma(p, r, broadcast(1.0F / 120));
  p = fma(p, r, broadcast(1.0F / 24));
  p = fma(p, r, broadcast(1.0F / 6));
  p = fma(p, r, broadcast(0.5F));
  p = fma(p, r, broadcast(1.0F));
  p = fma(p, r, broadcast(1.0F));
  return p * power_of_two(n);
}

/// e^x of x up to 0, and nothing below e^-60: fp32 loses that beside a 1, and as a factor it would make subnormal
/// numbers, which take a processor a hundred times as long.
NIBBLE_HD F32x16 exp_or_nothing(const F32x16& x) { return max(broadcast(0), exp(x) - broadcast(0x1p-86F)); }

NIBBLE_HD F32x16 activate(const F32x16& v, Activation activation) {
  if (activation == Activation::kRelu) return max(broadcast(0), v);
  float lanes[16];
  store(lanes, v);
  for (float& x : lanes) x = activated(x, activation);
  return load(lanes);
}

/// The matrix of sums seen from one of its columns on.
template <class Lanes, int M, int N>
NIBBLE_HD Lanes (*columns_from(Lanes (&sums)[M][N], int column))[N] {
  return reinterpret_cast<Lanes(*)[N]>(&sums[0][column]);
}

}  // namespace
}  // namespace nibble
