// Groups of 128 weights, from a layout's bits to operands. A layout named here has a fast path; any other is decoded by
// its View, one weight at a time, and runs all the same.
//
// What a decoder yields are factors: what is left of a weight without the scale that others share. A row's scale is
// multiplied into the finished sum, a block's into the sum over a group: one instruction for many weights, and one
// rounding of a sum instead of one of each weight.
#pragma once

namespace nibble {
namespace {

/// Into the second-level cache: rows a power of two apart would push each other out of the first. A row of w is too
/// short for the hardware to notice that it is being read in order. A part of a group is `kBytes` from `first` on.
template <int kBytes>
NIBBLE_HD void prefetch_part(const void* first, int part) {
  constexpr int kLine = 64;
  if (part * kBytes % kLine != 0) return;  // in the line of the part before
  for (int byte = 0; byte < kBytes; byte += kLine) {
    __builtin_prefetch(static_cast<const char*>(first) + byte, 0, 2);
  }
}

/// What a decoder need not say: no group has a fast path, factors are the weights and keep their order.
template <class Layout>
struct PlainDecoder {
  using View = typename Layout::View;
  /// Whether sums over groups are multiplied by `scale`.
  static constexpr bool kScaled = false;
  /// Where column i of a group stands in a packed group.
  template <class Operand>
  NIBBLE_HD static int place(int i) {
    return i;
  }
  /// Groups at the beginning of rows up to `last` that `decode` and `prefetch` may be called for.
  static int fast_groups(const View&, [[maybe_unused]] std::int64_t last) { return 0; }
  /// One part of a group.
  template <class Operand>
  NIBBLE_HD static Operand decode(const View&, std::int64_t, int, int) {
    return {};
  }
  NIBBLE_HD static void prefetch(const View&, std::int64_t, int, int) {}
  /// One factor.
  NIBBLE_HD static float factor(const View& w, std::int64_t row, int col) { return w.decode(row, col); }
  /// What each lane of a group's sum is multiplied by.
  NIBBLE_HD static F32x16 scale(const View&, std::int64_t, int) { return broadcast(1); }
  /// The results of `count` rows of w, from their sums.
  NIBBLE_HD static F32x16 finished(const View&, const F32x16& sums, std::int64_t, int) { return sums; }
};

template <class Layout>
struct GroupDecoder : PlainDecoder<Layout> {};

template <class T>
struct GroupDecoder<Dense<T>> : PlainDecoder<Dense<T>> {
  using View = typename Dense<T>::View;
  static int fast_groups(const View& w, std::int64_t) { return w.k / kGroup; }
  template <class Operand>
  NIBBLE_HD static Operand decode(const View& w, std::int64_t row, int group, int part) {
    const T* values = w.values + row * w.k + group * kGroup + part * kPart;
    if constexpr (requires { load_operand<Operand>(values); }) {
      return load_operand<Operand>(values);
    } else {
      return make_operand<Operand>(load(values), load(values + 16));
    }
  }
  NIBBLE_HD static void prefetch(const View& w, std::int64_t row, int group, int part) {
    prefetch_part<kPart * sizeof(T)>(w.values + row * w.k + group * kGroup + part * kPart, part);
  }
};

constexpr int groups_of(int k) { return padded_to(k, kGroup) / kGroup; }

/// Groups of codes of rows up to `last` that can be read whole: what a row's last group reads beyond its end, of the
/// rows behind it, meets zeros of x, as long as there are such rows.
template <class View>
NIBBLE_HD int whole_groups(const View& w, std::int64_t last) {
  const std::int64_t left = (w.n - last) * w.k / kGroup;
  return left < groups_of(w.k) ? static_cast<int>(left) : groups_of(w.k);
}

/// Factors are the codes.
template <>
struct GroupDecoder<Int8Row> : PlainDecoder<Int8Row> {
  static int fast_groups(const View& w, std::int64_t last) { return whole_groups(w, last); }
  template <class Operand>
  NIBBLE_HD static Operand decode(const View& w, std::int64_t row, int group, int part) {
    const std::int8_t* codes = w.codes + row * w.k + group * kGroup + part * kPart;
    return make_operand<Operand>(load(codes), load(codes + 16));
  }
  NIBBLE_HD static void prefetch(const View& w, std::int64_t row, int group, int part) {
    prefetch_part<kPart>(w.codes + row * w.k + group * kGroup + part * kPart, part);
  }
  NIBBLE_HD static float factor(const View& w, std::int64_t row, int col) {
    return static_cast<float>(w.codes[row * w.k + col]);
  }
  NIBBLE_HD static F32x16 finished(const View& w, const F32x16& sums, std::int64_t row, int count) {
    return sums * load_some(w.scb + row, count) * broadcast(View::kInverse127);
  }
};

/// Factors are the levels of 64 bytes of codes, in the order operands look them up. Where rows are not whole halves of
/// a group, factors are the weights.
template <class Scale>
struct GroupDecoder<Lut4<Scale>> : PlainDecoder<Lut4<Scale>> {
  using View = typename Lut4<Scale>::View;
  static constexpr bool kScaled = true;
  template <class Operand>
  NIBBLE_HD static int place(int i) {
    return Operand::place_of_code(i);
  }
  NIBBLE_HD static bool scaled_by_group(const View& w) { return w.k % (kGroup / 2) == 0; }
  static int fast_groups(const View& w, std::int64_t last) { return scaled_by_group(w) ? whole_groups(w, last) : 0; }
  NIBBLE_HD static const std::uint8_t* codes(const View& w, std::int64_t row, int group) {
    return w.codes + ((row * w.k + group * kGroup) >> 1);
  }
  template <class Operand>
  NIBBLE_HD static Operand decode(const View& w, std::int64_t row, int group, int part) {
    return lookup_codes<Operand>(w.levels, codes(w, row, group), part);
  }
  NIBBLE_HD static void prefetch(const View& w, std::int64_t row, int group, int part) {
    prefetch_part<kPart / 2>(codes(w, row, group), part);
  }
  NIBBLE_HD static float factor(const View& w, std::int64_t row, int col) {
    return scaled_by_group(w) ? w.levels[w.code(row * w.k + col)] : w.decode(row, col);
  }
  NIBBLE_HD static F32x16 scale(const View& w, std::int64_t row, int group) {
    return scale_of(w, row, group, w.absmax);
  }
  /// `absmax` has those of the blocks, by their numbers.
  template <class Absmax>
  NIBBLE_HD static F32x16 scale_of(const View& w, std::int64_t row, int group, const Absmax& blocks) {
    if (!scaled_by_group(w)) return broadcast(1);
    const std::int64_t first = row * w.k + group * kGroup;
    const int half = w.k - group * kGroup > kGroup / 2 ? kGroup / 2 : 0;  // the second, or where the row ends the first
    const auto absmax = [&](int col) __attribute__((always_inline)) { return blocks[(first + col) >> w.block_shift]; };
    return w.block_shift == 5 ? quarters(absmax(0), absmax(32), absmax(half), absmax(half + 32))
                              : halves(absmax(0), absmax(half));
  }
};

/// What int4's codes stand for before a zero point is taken off, and after that of symmetric groups.
constexpr float kInt4Codes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
constexpr float kSymmetricCodes[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};

/// Factors are codes less their zero point. Where rows begin within a byte, factors are the weights.
template <class Zero>
struct GroupDecoder<Int4Group<Zero>> : PlainDecoder<Int4Group<Zero>> {
  using View = typename Int4Group<Zero>::View;
  static constexpr bool kScaled = true;
  template <class Operand>
  NIBBLE_HD static int place(int i) {
    return Operand::place_of_code(i);
  }
  NIBBLE_HD static bool scaled_by_group(const View& w) { return w.k % 2 == 0; }
  static int fast_groups(const View& w, std::int64_t last) { return scaled_by_group(w) ? whole_groups(w, last) : 0; }
  NIBBLE_HD static const std::uint8_t* codes(const View& w, std::int64_t row, int group) {
    return w.codes + ((row * w.k + group * kGroup) >> 1);
  }
  template <class Operand>
  NIBBLE_HD static Operand decode(const View& w, std::int64_t row, int group, int part) {
    if constexpr (std::is_same_v<Zero, SymmetricZero>) {
      return lookup_codes<Operand>(kSymmetricCodes, codes(w, row, group), part);
    } else {
      return subtract(lookup_codes<Operand>(kInt4Codes, codes(w, row, group), part), lanes_of(w, row, group, w.zeros));
    }
  }
  NIBBLE_HD static void prefetch(const View& w, std::int64_t row, int group, int part) {
    prefetch_part<kPart / 2>(codes(w, row, group), part);
  }
  NIBBLE_HD static float factor(const View& w, std::int64_t row, int col) {
    return scaled_by_group(w) ? static_cast<float>(code4(w.codes, row * w.k + col)) - w.zeros[w.group(row, col)]
                              : w.decode(row, col);
  }
  struct Scales {
    const Half* scales;
    NIBBLE_HD float operator[](std::int64_t group) const { return to_float(scales[group]); }
  };
  NIBBLE_HD static F32x16 scale(const View& w, std::int64_t row, int group) {
    return scale_of(w, row, group, Scales{w.scales});
  }
  /// `scales` has those of the weight's groups, by their numbers.
  template <class Values>
  NIBBLE_HD static F32x16 scale_of(const View& w, std::int64_t row, int group, const Values& scales) {
    return scaled_by_group(w) ? lanes_of(w, row, group, scales) : broadcast(1);
  }
  /// What each lane of a group of 128 columns has, of values by the numbers of the weight's groups.
  template <class Values>
  NIBBLE_HD static F32x16 lanes_of(const View& w, std::int64_t row, int group, const Values& values) {
    const auto value = [&](int col) __attribute__((always_inline)) {
      const int place = group * kGroup + col;
      return values[w.group(row, place < w.k ? place : w.k - 1)];
    };
    return w.group_shift == 5   ? quarters(value(0), value(32), value(64), value(96))
           : w.group_shift == 6 ? halves(value(0), value(64))
                                : broadcast(value(0));
  }
};

constexpr int kScalesAhead = 16;

/// Scales of the next kScalesAhead groups of a row, of which the first is a multiple of that.
template <class Layout>
struct ScalesAhead {
  using View = typename Layout::View;
  NIBBLE_HD void read(const View&, std::int64_t, int) {}
  NIBBLE_HD F32x16 of(const View& w, std::int64_t row, int group) const {
    return GroupDecoder<Layout>::scale(w, row, group);
  }
};

/// Nested absmax are decoded sixteen at a time.
template <>
struct ScalesAhead<Lut4<NestedScale>> {
  using View = Lut4<NestedScale>::View;

  NIBBLE_HD void read(const View& w, std::int64_t row, int group) {
    const std::int64_t begin = row * w.k + group * kGroup;
    const std::int64_t columns =
        w.k - group * kGroup < kScalesAhead * kGroup ? w.k - group * kGroup : kScalesAhead * kGroup;
    first_ = begin >> w.block_shift;
    const auto count = static_cast<int>(((begin + columns - 1) >> w.block_shift) - first_) + 1;
    for (int i = 0; i < count; i += kLanes) decode(w.absmax, first_ + i, count - i, absmax_ + i);
  }
  NIBBLE_HD F32x16 of(const View& w, std::int64_t row, int group) const {
    return GroupDecoder<Lut4<NestedScale>>::scale_of(w, row, group, *this);
  }
  NIBBLE_HD float operator[](std::int64_t block) const { return absmax_[block - first_]; }

 private:
  static constexpr int kLanes = 16;

  /// The same steps as NestedScale::View takes.
  NIBBLE_HD static void decode(const NestedScale::View& blocks, std::int64_t first, int count, float* absmax) {
    const std::int64_t nested = first / NestedScale::kBlocksize;
    if (count >= kLanes && (first + kLanes - 1) / NestedScale::kBlocksize == nested) {
      const F32x16 values = gather(blocks.nested_table, blocks.absmax + first);
      return store(absmax, values * broadcast(blocks.nested_absmax[nested]) + broadcast(blocks.offset));
    }
    for (int i = 0; i < kLanes && i < count; ++i) absmax[i] = blocks[first + i];
  }

  std::int64_t first_;
  float absmax_[kScalesAhead * kGroup / 32 + kLanes];  ///< blocks have at least 32 columns
};

/// fp16 scales are widened sixteen at a time.
template <class Zero>
struct ScalesAhead<Int4Group<Zero>> {
  using View = typename Int4Group<Zero>::View;

  NIBBLE_HD void read(const View& w, std::int64_t row, int group) {
    const int begin = group * kGroup;
    const int end = w.k - begin < kScalesAhead * kGroup ? w.k : begin + kScalesAhead * kGroup;
    first_ = w.group(row, begin);
    const auto count = static_cast<int>(w.group(row, end - 1) - first_) + 1;
    for (int i = 0; i < count; i += kLanes) {
      store(scales_ + i, load_some(w.scales + first_ + i, count - i < kLanes ? count - i : kLanes));
    }
  }
  NIBBLE_HD F32x16 of(const View& w, std::int64_t row, int group) const {
    return GroupDecoder<Int4Group<Zero>>::scale_of(w, row, group, *this);
  }
  NIBBLE_HD float operator[](std::int64_t group) const { return scales_[group - first_]; }

 private:
  static constexpr int kLanes = 16;

  std::int64_t first_;
  float scales_[kScalesAhead * kGroup / 32];  ///< groups have at least 32 columns, or are whole rows
};

/// Any group of a row, packed, one factor at a time; beyond the last column it is zero.
template <class Operand, class Layout>
void decode_slowly(const typename Layout::View& w, std::int64_t row, int group, typename Operand::Element* packed) {
  using Decoder = GroupDecoder<Layout>;
  float values[kGroup] = {};
  const int first = group * kGroup;
  const int count = w.k - first < kGroup ? w.k - first : kGroup;
  for (int i = 0; i < count; ++i) values[Decoder::template place<Operand>(i)] = Decoder::factor(w, row, first + i);
  store_group<Operand>(packed, values);
}

}  // namespace
}  // namespace nibble
