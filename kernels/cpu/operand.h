// A part of a dot product, 32 factors of x or of w, and how they are stored when packed. Included after a target's
// vectors.
#pragma once

namespace nibble {
namespace {

/// Parts of a group.
constexpr int kPart = 32;
constexpr int kParts = kGroup / kPart;
/// Factors in a part of an operand's.
template <class Operand>
constexpr int kPartOf = kPart;

/// Beside 1, 2, ... rows of x that have no more bytes, packed, rows of w go one after another and are left to the
/// hardware to ask for, which follows one stretch of memory; 0: beside none.
template <class Layout, class Operand>
constexpr int kShortOfX[kFusedRows] = {};

struct F32x32 {
  using Element = float;
  using Sums = F32x16;
  static constexpr bool kWhole = false;          ///< whether factors are whole numbers
  static constexpr int kGroupElements = kGroup;  ///< of a packed group of x
  using Table = F32x16;                          ///< of 16 levels
  F32x16 first, second;

  /// Part p of a group of 4-bit codes is the low nibbles of bytes p, p + 4, p + 8, ..., then the high ones.
  NIBBLE_HD static constexpr int place_of_code(int i) {
    const int byte = i / 2;
    return byte % 4 * kPart + (i % 2 == 0 ? 16 : 0) + byte / 4;
  }
  NIBBLE_HD static constexpr int place_of_byte(int i) { return i; }
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

template <class Operand>
NIBBLE_HD typename Operand::Table make_table(const float* levels);
template <>
NIBBLE_HD F32x16 make_table<F32x32>(const float* levels) {
  return load(levels);
}

/// A part of a group of 64 bytes of codes as levels.
template <class Operand>
NIBBLE_HD Operand lookup_codes(const typename Operand::Table& table, const std::uint8_t* codes, int part);
template <>
NIBBLE_HD F32x32 lookup_codes<F32x32>(const F32x16& table, const std::uint8_t* codes, int part) {
  const Words words = load_words(codes);
  return {lookup(table, words, 2 * part), lookup(table, words, 2 * part + 1)};
}

/// A part of a group of 128 signed bytes.
template <class Operand>
NIBBLE_HD Operand load_bytes(const std::int8_t* bytes, int part);
template <>
NIBBLE_HD F32x32 load_bytes<F32x32>(const std::int8_t* bytes, int part) {
  return {load(bytes + part * kPart), load(bytes + part * kPart + 16)};
}

/// Takes a number off the factors of each lane; `subtract` of a table takes one number off all its levels.
NIBBLE_HD F32x32 subtract(const F32x32& v, const F32x16& lanes) { return {v.first - lanes, v.second - lanes}; }
NIBBLE_HD F32x16 subtract(const F32x16& table, int number) { return table - broadcast(static_cast<float>(number)); }

/// Adds the 32 products to the lanes of `total`, two a lane.
NIBBLE_HD F32x16 accumulate(const F32x16& total, const F32x32& w, const F32x32& x) {
  return fma(w.second, x.second, fma(w.first, x.first, total));
}

/// A part of a packed group of x.
template <class Operand>
NIBBLE_HD auto load_factors(const typename Operand::Element* group, int part) {
  return load_operand<Operand>(group + part * kPart);
}

/// What the sums of a group's lanes begin with; x is the packed group.
template <class Operand>
NIBBLE_HD typename Operand::Sums first_sums(const typename Operand::Element*) {
  return typename Operand::Sums{};
}

/// Packs the factors of a group.
template <class Operand>
NIBBLE_HD void store_group(typename Operand::Element* packed, const float* values) {
  for (int i = 0; i < kGroup; i += kPart) {
    store_operand(packed + i, make_operand<Operand>(load(values + i), load(values + i + 16)));
  }
}

/// Packs a group of x. Where factors are whole numbers, w's are multiples of 1 / unit.
template <class Operand>
NIBBLE_HD void pack_factors(typename Operand::Element* packed, const float* values, [[maybe_unused]] float unit) {
  store_group<Operand>(packed, values);
}

}  // namespace
}  // namespace nibble
