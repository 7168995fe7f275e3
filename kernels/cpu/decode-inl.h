// Groups of 32 weights, from a layout's bits to operands. A layout named here has a fast path; any other is decoded by
// its View, one weight at a time, and runs all the same.
#pragma once

namespace nibble {
namespace {

/// Into the second-level cache: rows a power of two apart would push each other out of the first. A row of w is too
/// short for the hardware to notice that it is being read in order.
NIBBLE_HD void prefetch_line(const void* address) { __builtin_prefetch(address, 0, 2); }

/// The general case: no group has a fast path, and factors keep their order.
template <class Layout>
struct GroupDecoder {
  using View = typename Layout::View;
  /// Whether a packed group holds its even columns, then its odd ones.
  static constexpr bool kEvensFirst = false;
  /// Groups at the beginning of a row that `decode` and `prefetch` may be called for.
  static int fast_groups(const View&) { return 0; }
  template <class Operand>
  NIBBLE_HD static Operand decode(const View&, std::int64_t, int) {
    return {};
  }
  NIBBLE_HD static void prefetch(const View&, std::int64_t, int) {}
};

template <class T>
struct GroupDecoder<Dense<T>> {
  using View = typename Dense<T>::View;
  static constexpr bool kEvensFirst = false;
  static int fast_groups(const View& w) { return w.k / kGroup; }
  template <class Operand>
  NIBBLE_HD static Operand decode(const View& w, std::int64_t row, int group) {
    const T* values = w.values + row * w.k + group * kGroup;
    if constexpr (requires { load_operand<Operand>(values); }) {
      return load_operand<Operand>(values);
    } else {
      return make_operand<Operand>(load(values), load(values + 16));
    }
  }
  NIBBLE_HD static void prefetch(const View& w, std::int64_t row, int group) {
    prefetch_line(w.values + row * w.k + group * kGroup);
  }
};

template <>
struct GroupDecoder<Int8Row> {
  using View = Int8Row::View;
  static constexpr bool kEvensFirst = false;
  static int fast_groups(const View& w) { return w.k / kGroup; }
  template <class Operand>
  NIBBLE_HD static Operand decode(const View& w, std::int64_t row, int group) {
    const std::int8_t* codes = w.codes + row * w.k + group * kGroup;
    const F32x16 scb = broadcast(w.scb[row]);
    const F32x16 inverse = broadcast(View::kInverse127);
    return make_operand<Operand>(load(codes) * scb * inverse, load(codes + 16) * scb * inverse);
  }
  NIBBLE_HD static void prefetch(const View& w, std::int64_t row, int group) {
    prefetch_line(w.codes + row * w.k + group * kGroup);
  }
};

/// Where rows are whole groups, no group crosses a block: blocks are at least as long, and begin where groups do.
template <class Scale>
struct GroupDecoder<Lut4<Scale>> {
  using View = typename Lut4<Scale>::View;
  static constexpr bool kEvensFirst = true;
  static int fast_groups(const View& w) { return w.k % kGroup == 0 ? w.k / kGroup : 0; }
  template <class Operand>
  NIBBLE_HD static Operand decode(const View& w, std::int64_t row, int group) {
    const std::int64_t flat = row * w.k + group * kGroup;
    const F32x16 table = load(w.levels) * broadcast(w.absmax[flat >> w.block_shift]);
    F32x16 evens, odds;
    lookup_nibbles(table, w.codes + (flat >> 1), evens, odds);
    return make_operand<Operand>(evens, odds);
  }
  NIBBLE_HD static void prefetch(const View& w, std::int64_t row, int group) {
    prefetch_line(w.codes + ((row * w.k + group * kGroup) >> 1));
  }
};

/// Where column i of a group stands in the packed group.
template <class Layout>
NIBBLE_HD int packed_place(int i) {
  return GroupDecoder<Layout>::kEvensFirst ? (i & 1) * 16 + i / 2 : i;
}

/// A group without a fast path; beyond the last column it is zero.
template <class Operand, class Layout>
Operand decode_slowly(const typename Layout::View& w, std::int64_t row, int group) {
  float values[kGroup] = {};
  const int first = group * kGroup;
  const int count = w.k - first < kGroup ? w.k - first : kGroup;
  for (int i = 0; i < count; ++i) values[packed_place<Layout>(i)] = w.decode(row, first + i);
  return make_operand<Operand>(load(values), load(values + 16));
}

}  // namespace
}  // namespace nibble
