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
/// short for the hardware to notice that it is being read in order.
template <int kBytes>
NIBBLE_HD void prefetch(const void* first) {
  constexpr int kLine = 64;
  for (int byte = 0; byte < kBytes; byte += kLine) {
    __builtin_prefetch(static_cast<const char*>(first) + byte, 0, 2);
  }
}

/// The same for elements up to `last`, whose line the next call may ask for.
template <class T>
NIBBLE_HD void prefetch(const T* first, const T* last) {
  for (; first < last; first += 64 / sizeof(T)) __builtin_prefetch(first, 0, 2);
}

/// Groups whose scales are made ready at once.
constexpr int kScalesAhead = 16;

/// What factors have no zero points taken off.
struct NoZeros {};

/// Factors, from what a layout's codes stand for and the zero points of their lanes.
template <class Operand>
NIBBLE_HD Operand take_off(const Operand& v, NoZeros) {
  return v;
}
template <class Operand>
NIBBLE_HD Operand take_off(const Operand& v, const F32x16& zeros) {
  return subtract(v, zeros);
}

/// What a decoder need not say: no group has a fast path, factors are the weights and keep their order.
template <class Layout>
struct PlainDecoder {
  using View = typename Layout::View;
  /// Whether sums over groups are multiplied by `scale`.
  static constexpr bool kScaled = false;
  /// Factors are whole multiples of 1 / kUnit, or nearly, of magnitudes up to 2^14 / kUnit, in rows whose factors
  /// `are_codes`; 0: in none.
  static constexpr float kUnit = 0;
  /// Bytes of a group, and where the first of a row is, so that they can be asked for before they are decoded.
  static constexpr int kGroupBytes = 0;
  NIBBLE_HD static const void* row_codes(const View&, std::int64_t) { return nullptr; }
  /// Where column i of a group stands in a packed group.
  template <class Operand>
  NIBBLE_HD static constexpr int place(int i) {
    return i;
  }
  /// Groups at the beginning of rows up to `last` that `decode` may be called for.
  static int fast_groups(const View&, [[maybe_unused]] std::int64_t last) { return 0; }
  /// The weight as `decode` takes it: with what is the same for all groups.
  template <class Operand>
  NIBBLE_HD static const View& prepared(const View& w) {
    return w;
  }
  /// One part of a group, before zero points are taken off.
  template <class Operand>
  NIBBLE_HD static Operand decode(const View&, std::int64_t, int, int) {
    return {};
  }
  /// The scales of the next kScalesAhead groups.
  NIBBLE_HD static void prefetch_scales(const View&, std::int64_t, int) {}
  /// One factor.
  NIBBLE_HD static float factor(const View& w, std::int64_t row, int col) { return w.decode(row, col); }
  /// The zero points of a group's lanes.
  using ZeroLanes = NoZeros;
  NIBBLE_HD static NoZeros zeros(const View&, std::int64_t, int) { return {}; }
  /// What each lane of a group's sum is multiplied by.
  NIBBLE_HD static F32x16 scale(const View&, std::int64_t, int) { return broadcast(1); }
  /// The results of `count` rows of w, from their sums.
  NIBBLE_HD static F32x16 finished(const View&, const F32x16& sums, std::int64_t, int) { return sums; }
};

template <class Layout>
struct GroupDecoder : PlainDecoder<Layout> {};

/// What factors are multiplied by for an operand.
template <class Operand, class Layout>
NIBBLE_HD constexpr float unit_of() {
  return Operand::kWhole ? GroupDecoder<Layout>::kUnit : 1;
}

template <class T>
struct GroupDecoder<Dense<T>> : PlainDecoder<Dense<T>> {
  using View = typename Dense<T>::View;
  static constexpr int kGroupBytes = kGroup * sizeof(T);
  NIBBLE_HD static const void* row_codes(const View& w, std::int64_t row) { return w.values + row * w.k; }
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
  static constexpr float kUnit = 1;
  NIBBLE_HD static bool are_codes(int) { return true; }
  static constexpr int kGroupBytes = kGroup;
  NIBBLE_HD static const void* row_codes(const View& w, std::int64_t row) { return w.codes + row * w.k; }
  template <class Operand>
  NIBBLE_HD static constexpr int place(int i) {
    return Operand::place_of_byte(i);
  }
  static int fast_groups(const View& w, std::int64_t last) { return whole_groups(w, last); }
  template <class Operand>
  NIBBLE_HD static Operand decode(const View& w, std::int64_t row, int group, int part) {
    return load_bytes<Operand>(w.codes + row * w.k + group * kGroup, part);
  }
  NIBBLE_HD static float factor(const View& w, std::int64_t row, int col) {
    return static_cast<float>(w.codes[row * w.k + col]);
  }
  NIBBLE_HD static F32x16 finished(const View& w, const F32x16& sums, std::int64_t row, int count) {
    return sums * load_some(w.scb + row, count) * broadcast(View::kInverse127);
  }
};

template <>
struct GroupDecoder<Int8Decomp> : GroupDecoder<Int8Row> {};

/// What layouts of 4-bit codes share: factors are looked up in a table of sixteen, for the 64 bytes of a group in the
/// order operands look them up. Where rows are not multiples of kWholeColumns, an even number, factors are the weights.
template <class Layout, int kWholeColumns>
struct CodeDecoder : PlainDecoder<Layout> {
  using View = typename Layout::View;
  static constexpr bool kScaled = true;
  static constexpr int kGroupBytes = kGroup / 2;
  template <class Operand>
  NIBBLE_HD static constexpr int place(int i) {
    return Operand::place_of_code(i);
  }
  NIBBLE_HD static bool are_codes(int k) { return k % kWholeColumns == 0; }
  NIBBLE_HD static bool scaled_by_group(const View& w) { return are_codes(w.k); }
  static int fast_groups(const View& w, std::int64_t last) { return scaled_by_group(w) ? whole_groups(w, last) : 0; }
  NIBBLE_HD static const std::uint8_t* row_codes(const View& w, std::int64_t row) {
    return w.codes + row * (w.k / 2);  // k is even where groups are fast
  }
  template <class Operand>
  struct Prepared : View {
    typename Operand::Table table;
  };
  /// `codes` has what each of the sixteen codes stands for.
  template <class Operand>
  NIBBLE_HD static Prepared<Operand> with_table(const View& w, const float* codes) {
    float factors[16];
    store(factors, load(codes) * broadcast(unit_of<Operand, Layout>()));
    return {w, make_table<Operand>(factors)};
  }
  template <class Operand>
  NIBBLE_HD static Operand decode(const Prepared<Operand>& w, std::int64_t row, int group, int part) {
    return lookup_codes<Operand>(w.table, row_codes(w, row) + group * kGroupBytes, part);
  }
};

/// Factors are the levels, which are 1 at most. Those of fp4 are multiples of 1/192. Of the units below 2^14 that are
/// multiples of 192, kUnit has nf4's nearest to whole numbers: each is rounded by 2^-12.9 of itself at most.
template <class Scale>
struct GroupDecoder<Lut4<Scale>> : CodeDecoder<Lut4<Scale>, kGroup / 2> {
  static constexpr float kUnit = 15168;
  using Base = CodeDecoder<Lut4<Scale>, kGroup / 2>;
  using View = typename Base::View;
  using Base::scaled_by_group;
  template <class Operand>
  NIBBLE_HD static auto prepared(const View& w) {
    return Base::template with_table<Operand>(w, w.levels);
  }
  NIBBLE_HD static void prefetch_scales(const View& w, std::int64_t row, int group) {
    const auto* absmax = w.absmax.absmax + ((row * w.k + group * kGroup) >> w.block_shift);
    prefetch(absmax, absmax + ((kScalesAhead * kGroup) >> w.block_shift));
  }
  NIBBLE_HD static float factor(const View& w, std::int64_t row, int col) {
    return scaled_by_group(w) ? w.levels[w.code(row * w.k + col)] : w.decode(row, col);
  }
  NIBBLE_HD static F32x16 scale(const View& w, std::int64_t row, int group) {
    if (!scaled_by_group(w)) return broadcast(1);
    const std::int64_t first = row * w.k + group * kGroup;
    const int half = w.k - group * kGroup > kGroup / 2 ? kGroup / 2 : 0;  // the second, or where the row ends the first
    const auto absmax = [&](int col) __attribute__((always_inline)) {
      return w.absmax[(first + col) >> w.block_shift];
    };
    return w.block_shift == 5 ? quarters(absmax(0), absmax(32), absmax(half), absmax(half + 32))
                              : halves(absmax(0), absmax(half));
  }
};

/// What int4's codes stand for before a zero point is taken off, and after that of symmetric groups.
constexpr float kInt4Codes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
constexpr float kSymmetricCodes[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};

/// Factors are codes less their zero point.
template <class Zero>
struct GroupDecoder<Int4Group<Zero>> : CodeDecoder<Int4Group<Zero>, 2> {
  using Base = CodeDecoder<Int4Group<Zero>, 2>;
  using View = typename Base::View;
  using Base::scaled_by_group;
  static constexpr float kUnit = 1;
  static constexpr bool kSymmetric = std::is_same_v<Zero, SymmetricZero>;
  using ZeroLanes = std::conditional_t<kSymmetric, NoZeros, F32x16>;
  template <class Operand>
  NIBBLE_HD static auto prepared(const View& w) {
    return Base::template with_table<Operand>(w, kSymmetric ? kSymmetricCodes : kInt4Codes);
  }
  NIBBLE_HD static void prefetch_scales(const View& w, std::int64_t row, int group) {
    const std::int64_t first = w.group(row, group * kGroup);
    const int count = ((kScalesAhead * kGroup - 1) >> w.group_shift) + 1;
    prefetch(w.scales + first, w.scales + first + count);
    if constexpr (!kSymmetric) prefetch(w.zeros.zeros + first, w.zeros.zeros + first + count);
  }
  NIBBLE_HD static float factor(const View& w, std::int64_t row, int col) {
    return scaled_by_group(w) ? static_cast<float>(code4(w.codes, row * w.k + col)) - w.zeros[w.group(row, col)]
                              : w.decode(row, col);
  }
  NIBBLE_HD static ZeroLanes zeros(const View& w, std::int64_t row, int group) {
    if constexpr (kSymmetric) {
      return {};
    } else {
      return lanes_of(w, group * kGroup, [&](int g) { return w.zeros[row * w.groups + last_of(w, g)]; });
    }
  }
  NIBBLE_HD static F32x16 scale(const View& w, std::int64_t row, int group) {
    if (!scaled_by_group(w)) return broadcast(1);
    return lanes_of(w, group * kGroup, [&](int g) { return to_float(w.scales[row * w.groups + last_of(w, g)]); });
  }
  /// Beyond a row's end are its last group's.
  NIBBLE_HD static int last_of(const View& w, int group) { return group < w.groups ? group : w.groups - 1; }
  /// What each lane of 128 columns from `col` on has, of values by the numbers of the weight's groups. The same steps
  /// for all sizes of those: a branch here would keep rows of w from being decoded side by side.
  template <class Value>
  NIBBLE_HD static F32x16 lanes_of(const View& w, int col, Value&& value) {
    const auto at = [&](int i) __attribute__((always_inline)) { return value((col + i) >> w.group_shift); };
    return quarters(at(0), at(32), at(64), at(96));
  }
};

/// Scales of the next kScalesAhead groups of a row, of which the first is a multiple of that; and parts of groups, with
/// their zero points taken off.
template <class Layout>
struct ScalesAhead {
  using View = typename Layout::View;
  NIBBLE_HD void read(const View&, std::int64_t, int) {}
  template <class Operand, class Prepared>
  NIBBLE_HD static Operand decode(const Prepared& w, std::int64_t row, int group, int part) {
    return GroupDecoder<Layout>::template decode<Operand>(w, row, group, part);
  }
  NIBBLE_HD F32x16 of(const View& w, std::int64_t row, int group) const {
    return GroupDecoder<Layout>::scale(w, row, group);
  }
};

/// Absmax of blocks of at least half a group, in rows of whole groups: one step serves all lanes. No branch, which
/// would keep rows of w from being decoded side by side.
template <class Layout>
struct Halves : ScalesAhead<Layout> {
  using View = typename Layout::View;
  static bool fit(const View& w) { return 1 << w.block_shift >= kGroup / 2 && w.k % kGroup == 0; }
  NIBBLE_HD F32x16 of(const View& w, std::int64_t row, int group) const {
    const std::int64_t first = row * w.k + group * kGroup;
    return of_blocks(w, first >> w.block_shift, (first + kGroup / 2) >> w.block_shift);
  }

 protected:
  NIBBLE_HD static F32x16 of_blocks(const View& w, std::int64_t block, std::int64_t next) {
    const auto& absmax = w.absmax;
    if constexpr (std::is_same_v<Layout, Lut4<NestedScale>>) {
      // No group is in two nested blocks. Looked up one at a time, beside the vectors' work: gathers and permutes of
      // the table are slower.
      return halves(absmax.entry(block), absmax.entry(next)) *
                 broadcast(absmax.nested_absmax[static_cast<std::uint64_t>(block) / NestedScale::kBlocksize]) +
             broadcast(absmax.offset);
    } else {
      return halves(absmax[block], absmax[next]);
    }
  }
};

/// Of blocks of half a group, two for each: places that need no shifts.
template <class Layout>
struct TwoEach : Halves<Layout> {
  using View = typename Layout::View;
  static bool fit(const View& w) { return 1 << w.block_shift == kGroup / 2 && w.k % kGroup == 0; }
  NIBBLE_HD F32x16 of(const View& w, std::int64_t row, int group) const {
    const std::int64_t block = row * (w.k / (kGroup / 2)) + 2 * group;
    return Halves<Layout>::of_blocks(w, block, block + 1);
  }
};

/// fp16 scales of kScalesAhead groups, or zero points, widened sixteen at a time, for groups of the weight of at least
/// kSmallest columns or of whole rows.
template <int kSmallest>
class Widened {
 public:
  /// Of int4's row, from a group on that is a multiple of kScalesAhead. What is behind the last meets zeros of x, or
  /// nothing where groups are no smaller than those here: then it may be the next row's.
  template <class View, class T>
  NIBBLE_HD void read(const View& w, const T* values, std::int64_t row, int group) {
    const int begin = (group * kGroup) >> w.group_shift;
    const int columns = w.k - group * kGroup < kScalesAhead * kGroup ? w.k - group * kGroup : kScalesAhead * kGroup;
    const int count = ((group * kGroup + columns - 1) >> w.group_shift) + 1 - begin;
    const T* const first = values + row * w.groups + begin;
    const T* const end = values + std::int64_t{w.n} * w.groups;
    for (int i = 0; i < kMost; i += kLanes) {
      const int some = count - i < kLanes ? count - i : kLanes;
      if (kSmallest >= kGroup && end - first >= i + kLanes) {
        store(values_ + i, load(first + i));
      } else {
        store(values_ + i, some > 0 ? load_some(first + i, some) : broadcast(0));
      }
    }
  }
  NIBBLE_HD void fill(float value) {
    for (int i = 0; i < kMost; i += kLanes) store(values_ + i, broadcast(value));
  }
  NIBBLE_HD float operator[](int i) const { return values_[i]; }

 private:
  static constexpr int kLanes = 16, kMost = kScalesAhead * kGroup / kSmallest;

  float values_[kMost];
};

template <class Zero>
struct ScalesAhead<Int4Group<Zero>> {
  using Decoder = GroupDecoder<Int4Group<Zero>>;
  using View = typename Int4Group<Zero>::View;

  NIBBLE_HD void read(const View& w, std::int64_t row, int group) {
    if (Decoder::scaled_by_group(w)) {
      scales_.read(w, w.scales, row, group);
    } else {
      scales_.fill(1);
    }
    if constexpr (!Decoder::kSymmetric) {  // small enough to be signed bytes as well
      zeros_.read(w, reinterpret_cast<const std::int8_t*>(w.zeros.zeros), row, group);
    }
  }
  template <class Operand, class Prepared>
  NIBBLE_HD Operand decode(const Prepared& w, std::int64_t row, int group, int part) const {
    const auto codes = Decoder::template decode<Operand>(w, row, group, part);
    if constexpr (Decoder::kSymmetric) {
      return codes;
    } else {
      return subtract(codes, lanes(w, group, zeros_));
    }
  }
  NIBBLE_HD F32x16 of(const View& w, std::int64_t, int group) const { return lanes(w, group, scales_); }

 private:
  using Values = Widened<32>;

  NIBBLE_HD static F32x16 lanes(const View& w, int group, const Values& values) {
    return Decoder::lanes_of(w, group % kScalesAhead * kGroup, [&](int g) { return values[g]; });
  }

  Values scales_;
  std::conditional_t<Decoder::kSymmetric, NoZeros, Values> zeros_;
};

/// Where groups of int4 are no smaller than those here, all lanes have the same, and zero points are taken off the
/// table.
template <class Layout>
struct Alike;
template <class Zero>
struct Alike<Int4Group<Zero>> {
  using Decoder = GroupDecoder<Int4Group<Zero>>;
  using View = typename Int4Group<Zero>::View;

  static bool fit(const View& w) { return 1 << w.group_shift >= kGroup && Decoder::scaled_by_group(w); }
  NIBBLE_HD void read(const View& w, std::int64_t row, int group) { scales_.read(w, w.scales, row, group); }
  template <class Operand>
  NIBBLE_HD static Operand decode(const typename Decoder::template Prepared<Operand>& w, std::int64_t row, int group,
                                  int part) {
    auto taken = w;
    if constexpr (!Decoder::kSymmetric) {
      taken.table = subtract(w.table, w.zeros.zeros[w.group(row, group * kGroup)]);
    }
    return Decoder::template decode<Operand>(taken, row, group, part);
  }
  NIBBLE_HD F32x16 of(const View& w, std::int64_t, int group) const {
    return broadcast(scales_[(group % kScalesAhead * kGroup) >> w.group_shift]);
  }

 private:
  Widened<kGroup> scales_;
};

/// Calls `f` with the type that has the scales of the weight's groups.
template <class Layout, class F>
NIBBLE_HD void with_scales(const typename Layout::View& w, F&& f) {
  if constexpr (requires { w.absmax; }) {
    if (TwoEach<Layout>::fit(w)) return f(std::type_identity<TwoEach<Layout>>{});
    if (Halves<Layout>::fit(w)) return f(std::type_identity<Halves<Layout>>{});
  } else if constexpr (requires { w.group_shift; }) {
    if (Alike<Layout>::fit(w)) return f(std::type_identity<Alike<Layout>>{});
  }
  f(std::type_identity<ScalesAhead<Layout>>{});
}

/// Any group of a row, packed, one factor at a time; beyond the last column it is zero.
template <class Operand, class Layout>
void decode_slowly(const typename Layout::View& w, std::int64_t row, int group, typename Operand::Element* packed) {
  using Decoder = GroupDecoder<Layout>;
  float values[kGroup] = {};
  const int first = group * kGroup;
  const int count = w.k - first < kGroup ? w.k - first : kGroup;
  for (int i = 0; i < count; ++i) {
    values[Decoder::template place<Operand>(i)] = Decoder::factor(w, row, first + i) * unit_of<Operand, Layout>();
  }
  store_group<Operand>(packed, values);
}

}  // namespace
}  // namespace nibble
