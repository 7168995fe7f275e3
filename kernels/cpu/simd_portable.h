// Sixteen lanes, fp32 and whole, as four vectors of four, which every compiler turns into whatever the machine has.
#pragma once

#include <cstdint>

#include "kernels/numeric.h"

namespace nibble {
namespace {

typedef float F32x4 __attribute__((vector_size(16)));
typedef std::int32_t I32x4 __attribute__((vector_size(16)));

struct F32x16 {
  F32x4 part[4];
};

template <class F>
NIBBLE_HD F32x16 lanes(F f) {
  return {{f(0), f(1), f(2), f(3)}};
}

/// What stands in memory, wherever it begins.
template <class V>
NIBBLE_HD V load_as(const void* memory) {
  V v;
  __builtin_memcpy(&v, memory, sizeof v);
  return v;
}

NIBBLE_HD F32x16 broadcast(float value) {
  return lanes([=](int) { return F32x4{value, value, value, value}; });
}
NIBBLE_HD F32x16 broadcast(Half value) { return broadcast(to_float(value)); }

NIBBLE_HD F32x16 load(const float* values) {
  return lanes([=](int i) { return load_as<F32x4>(values + 4 * i); });
}
/// Through an array, whose loop compilers know how to convert several values at a time.
template <class T>
NIBBLE_HD F32x16 load(const T* values) {
  float widened[16];
  for (int i = 0; i < 16; ++i) widened[i] = to_float(values[i]);
  return load(widened);
}
NIBBLE_HD F32x16 load(const std::int8_t* values) {
  float widened[16];
  for (int i = 0; i < 16; ++i) widened[i] = static_cast<float>(values[i]);
  return load(widened);
}

template <class T>
NIBBLE_HD void store(T* values, const F32x16& v) {
  for (int i = 0; i < 16; ++i) values[i] = round_to<T>(v.part[i / 4][i % 4]);
}

NIBBLE_HD F32x16 operator+(const F32x16& a, const F32x16& b) {
  return lanes([&](int i) { return a.part[i] + b.part[i]; });
}
NIBBLE_HD F32x16 operator-(const F32x16& a, const F32x16& b) {
  return lanes([&](int i) { return a.part[i] - b.part[i]; });
}
NIBBLE_HD F32x16 operator*(const F32x16& a, const F32x16& b) {
  return lanes([&](int i) { return a.part[i] * b.part[i]; });
}
/// a * b + c, here with two roundings
NIBBLE_HD F32x16 fma(const F32x16& a, const F32x16& b, const F32x16& c) { return a * b + c; }
/// b where a is NaN
NIBBLE_HD F32x16 max(const F32x16& a, const F32x16& b) {
  return lanes([&](int i) { return a.part[i] > b.part[i] ? a.part[i] : b.part[i]; });
}

NIBBLE_HD float sum(const F32x16& v) {
  const F32x4 s = (v.part[0] + v.part[2]) + (v.part[1] + v.part[3]);
  return (s[0] + s[2]) + (s[1] + s[3]);
}

/// sum(v[i]) in lane i.
NIBBLE_HD F32x16 sums(const F32x16 (&v)[16]) {
  float result[16];
  for (int i = 0; i < 16; ++i) result[i] = sum(v[i]);
  return load(result);
}

/// 2^n for whole n, -126 to 127
NIBBLE_HD F32x16 power_of_two(const F32x16& n) {
  return lanes([&](int i) {
    const I32x4 exponent = __builtin_convertvector(n.part[i], I32x4);
    return reinterpret_cast<F32x4>((exponent + 127) << 23);
  });
}

/// Lanes 0 to 3, 4 to 7, 8 to 11 and 12 to 15.
NIBBLE_HD F32x16 quarters(float first, float second, float third, float fourth) {
  const float values[4] = {first, second, third, fourth};
  return lanes([&](int i) { return F32x4{values[i], values[i], values[i], values[i]}; });
}

/// Lanes 0 to 7 and 8 to 15.
NIBBLE_HD F32x16 halves(float first, float second) { return quarters(first, first, second, second); }

/// Lanes of a magnitude below a limit, zero elsewhere, and a bit for each of the others, NaNs among them.
struct Inside {
  F32x16 values;
  std::uint32_t others;
};
NIBBLE_HD Inside inside(const F32x16& v, float limit) {
  float values[16];
  store(values, v);
  std::uint32_t others = 0;
  for (unsigned i = 0; i < 16; ++i) {
    if (__builtin_fabsf(values[i]) < limit) continue;
    values[i] = 0;
    others |= 1U << i;
  }
  return {load(values), others};
}

/// The lowest byte of each lane.
NIBBLE_HD void store_low_bytes(std::int8_t* bytes, const F32x16& v) {
  float values[16];
  store(values, v);
  for (int i = 0; i < 16; ++i) bytes[i] = static_cast<std::int8_t>(__builtin_bit_cast(std::uint32_t, values[i]));
}

/// Sixteen whole numbers.
struct I32x16 {
  std::int32_t lanes[16];
};
NIBBLE_HD I32x16 load(const std::int32_t* values) { return load_as<I32x16>(values); }
NIBBLE_HD I32x16 sums(const I32x16 (&v)[16]) {
  I32x16 result = {};
  for (int i = 0; i < 16; ++i) {
    for (const std::int32_t lane : v[i].lanes) result.lanes[i] += lane;
  }
  return result;
}
NIBBLE_HD F32x16 to_f32(const I32x16& v) {
  float values[16];
  for (int i = 0; i < 16; ++i) values[i] = static_cast<float>(v.lanes[i]);
  return load(values);
}

/// Sixteen 32-bit words of 4-bit codes: nibble 0 is the lowest of the first byte.
struct Words {
  std::uint8_t bytes[64];
};

NIBBLE_HD Words load_words(const std::uint8_t* bytes) { return load_as<Words>(bytes); }
/// table[nibble `index` of each word, from the lowest]
NIBBLE_HD F32x16 lookup(const F32x16& table, const Words& w, int index) {
  float levels[16], found[16];
  store(levels, table);
  for (int i = 0; i < 16; ++i) found[i] = levels[w.bytes[4 * i + index / 2] >> (index % 2 * 4) & 15];
  return load(found);
}

}  // namespace
}  // namespace nibble
