// y = epilogue(x w^T + bias).
//
// Every product of one row of x and one row of w is summed in the same 16 lanes over the columns in order, with the
// same scales at the same places, whatever the tile it is computed in; so a result depends on nothing but its two rows.
#pragma once

namespace nibble {
namespace {

/// So many rows are faster through a panel than some at a time.
constexpr int kFewestPanelRows = 13;

/// A weight that is decoded in registers is cut as the threads need it.
inline Turn turn_of_lanes(int left) {
  if (left < kFewestPanelRows) return {left, INT_MAX};
  return {left < kPackedRows ? left : kPackedRows, kTaskRows};
}

/// How many of a turn's rows are packed together: all for a panel, else up to kFusedRows, of about as many each time.
inline int rows_together(int rows) {
  if (rows >= kFewestPanelRows) return rows;
  const int times = (rows + kFusedRows - 1) / kFusedRows;
  return (rows + times - 1) / times;
}

/// Calls `f` with the type of operands for rows of k columns: CodeOperand where factors are codes.
template <class Layout, class T, class CodeOperand, class F>
NIBBLE_HD void with_operand([[maybe_unused]] int k, F&& f) {
  if constexpr (GroupDecoder<Layout>::kUnit != 0) {
    if (GroupDecoder<Layout>::are_codes(k)) return f(std::type_identity<CodeOperand>{});
  }
  f(std::type_identity<OperandOf<T>>{});
}

constexpr int kBlockGroups = kBlock / kGroup;
/// Elements of a packed block of columns of one row.
template <class Operand>
constexpr int kPackedBlock = Operand::kGroupElements* kBlockGroups;
/// Elements of so many packed rows.
template <class Operand>
NIBBLE_HD std::ptrdiff_t packed_elements(int k, int rows) {
  return std::ptrdiff_t{(groups_of(k) + kBlockGroups - 1) / kBlockGroups} * rows * kPackedBlock<Operand>;
}

/// One row of x in the order the decoder gives factors in, zero beyond its end. Of rows that are packed together:
/// packed[blocks of columns, rows, kPackedBlock].
template <class Layout, class T>
void pack_row(const T* x, int k, int rows, int row, void* packed) {
  const int most = rows_together(rows), first_row = row / most * most;
  const int together = rows - first_row < most ? rows - first_row : most;
  const auto pack = [&](auto operand) {
    using Operand = typename decltype(operand)::type;
    auto* const out = static_cast<typename Operand::Element*>(packed) + packed_elements<Operand>(k, first_row);
    for (int group = 0; group < groups_of(k); ++group) {
      float values[kGroup] = {};
      const int first = group * kGroup;
      const int count = k - first < kGroup ? k - first : kGroup;
      for (int i = 0; i < count; ++i) {
        values[GroupDecoder<Layout>::template place<Operand>(i)] = to_float(x[first + i]);
      }
      const std::ptrdiff_t block = std::ptrdiff_t{group / kBlockGroups} * together + row - first_row;
      pack_factors<Operand>(out + block * kPackedBlock<Operand> + group % kBlockGroups * Operand::kGroupElements,
                            values, unit_of<Operand, Layout>());
    }
  };
  if (rows == 1) return with_operand<Layout, T, CodeOperandOfOne<Layout, T>>(k, pack);
  with_operand<Layout, T, CodeOperandOf<Layout, T>>(k, pack);
}

/// Whether a group is summed apart and then added to its row's total: where that multiplies it, and where codes of one
/// row of w at once are decoded in less time than a sum that goes on from group to group takes.
template <class Layout, class Operand>
constexpr bool kGroupsApart = GroupDecoder<Layout>::kScaled || Operand::kWhole ||
                              (GroupDecoder<Layout>::kUnit != 0 && kFusedColumns<Layout, Operand>[0] == 1);

/// What the sum over a group begins with, and the row's total after it; x is the packed group. kApart: kGroupsApart,
/// all that it needs to know of a layout.
template <bool kApart, class Operand>
NIBBLE_HD typename Operand::Sums begin_group([[maybe_unused]] const F32x16& total,
                                             [[maybe_unused]] const typename Operand::Element* x) {
  if constexpr (kApart) {
    return first_sums<Operand>(x);
  } else {
    return total;
  }
}
template <bool kApart, class Operand>
NIBBLE_HD F32x16 end_group(const F32x16& total, const typename Operand::Sums& sums, const F32x16& scale,
                           [[maybe_unused]] const typename Operand::Element* x) {
  if constexpr (Operand::kWhole) {
    return fma(to_f32(sums), scale * scales_of(x), total);
  } else {
    return kApart ? fma(sums, scale, total) : sums;
  }
}

/// Codes of w in the order of memory, some way before they are read: N rows are one stretch, and while N are read the
/// next but one are asked for, or those at least kAheadBytes behind.
template <class Layout, int N>
class Ahead {
 public:
  using View = typename Layout::View;
  NIBBLE_HD explicit Ahead(const View& w)
      : rows_(N + padded_to(kAheadBytes / (groups_of(w.k) * kGroupBytes + 1) + 1, N)) {}

  /// Goes to what is asked for while the N rows from `first` on are read.
  NIBBLE_HD void begin(const View& w, std::int64_t first) {
    row_ = first + rows_;
    codes_ = GroupDecoder<Layout>::row_codes(w, row_);
  }
  /// The scales of the next kScalesAhead groups.
  NIBBLE_HD void ask_for_scales(const View& w, int group) const {
    for (int n = 0; n < N; ++n) GroupDecoder<Layout>::prefetch_scales(w, row_ + n, group);
  }
  /// As many codes as a group of N rows has.
  NIBBLE_HD void ask() {
    prefetch<N * kGroupBytes>(codes_);
    codes_ = static_cast<const char*>(codes_) + N * kGroupBytes;
  }

 private:
  static constexpr int kAheadBytes = 3 << 10;
  static constexpr int kGroupBytes = GroupDecoder<Layout>::kGroupBytes;

  int rows_;
  std::int64_t row_ = 0;
  const void* codes_ = nullptr;
};

/// The same where the hardware asks for them.
template <class Layout, int N>
struct AheadByItself {
  using View = typename Layout::View;
  NIBBLE_HD explicit AheadByItself(const View&) {}
  NIBBLE_HD void begin(const View&, std::int64_t) {}
  NIBBLE_HD void ask_for_scales(const View&, int) const {}
  NIBBLE_HD void ask() {}
};

/// Adds the products of a group to total[n][m] for M rows of x and N rows of w; `part_of(n, part)` decodes. x is the
/// packed group and becomes the next.
template <class Layout, class Operand, class Scales, int M, int N, class Weight, class Part>
NIBBLE_HD void add_group(const Weight& w, std::int64_t first, int group, const typename Operand::Element*& x,
                         const Scales (&scales)[N], F32x16 (&total)[N][M], Part&& part_of) {
  constexpr bool kApart = kGroupsApart<Layout, Operand>;
  typename Operand::Sums partial[N][M];
  for (int n = 0; n < N; ++n) {
    for (int m = 0; m < M; ++m) {
      partial[n][m] = begin_group<kApart, Operand>(total[n][m], x + m * kPackedBlock<Operand>);
    }
  }
  for (int part = 0; part < kGroup / kPartOf<Operand>; ++part) {
    Operand weights[N];
    for (int n = 0; n < N; ++n) weights[n] = part_of(n, part);
    for (int m = 0; m < M; ++m) {
      const auto row = load_factors<Operand>(x + m * kPackedBlock<Operand>, part);
      for (int n = 0; n < N; ++n) partial[n][m] = accumulate(partial[n][m], weights[n], row);
    }
  }
  for (int n = 0; n < N; ++n) {
    const F32x16 scale = scales[n].of(w, first + n, group);
    for (int m = 0; m < M; ++m) {
      total[n][m] = end_group<kApart, Operand>(total[n][m], partial[n][m], scale, x + m * kPackedBlock<Operand>);
    }
  }
  x += Operand::kGroupElements + ((group + 1) % kBlockGroups == 0 ? (M - 1) * kPackedBlock<Operand> : 0);
}

/// Adds the groups from `fast` on, which have no fast path, to totals[m][n]; x is the first of them. Not inlined, which
/// leaves the registers to the others.
template <class Layout, class Operand, class Scales, int M, int N, class Weight>
[[gnu::noinline]] void add_slow_groups(const Weight& w, std::int64_t first, int fast,
                                       const typename Operand::Element* x, F32x16 (*totals)[16]) {
  F32x16 total[N][M];
  for (int n = 0; n < N; ++n) {
    for (int m = 0; m < M; ++m) total[n][m] = totals[m][n];
  }
  Scales scales[N];
  for (int n = 0; n < N; ++n) scales[n].read(w, first + n, fast / kScalesAhead * kScalesAhead);
  for (int group = fast; group < groups_of(w.k); ++group) {
    if (group % kScalesAhead == 0) {
      for (int n = 0; n < N; ++n) scales[n].read(w, first + n, group);
    }
    typename Operand::Element packed[N][kGroup];
    for (int n = 0; n < N; ++n) decode_slowly<Operand, Layout>(w, first + n, group, packed[n]);
    add_group<Layout, Operand>(w, first, group, x, scales, total, [&](int n, int part) {
      return load_operand<Operand>(packed[n] + part * kPartOf<Operand>);
    });
  }
  for (int n = 0; n < N; ++n) {
    for (int m = 0; m < M; ++m) totals[m][n] = total[n][m];
  }
}

/// totals[m][n] = the lanes of x[m] · w[first + n] for M rows of x and N rows of w, decoded on the way. Scales: one of
/// those with_scales chooses among. Weight: as its decoder prepared it.
template <class Layout, class Operand, class Scales, int M, int N, class Weight, class Asker>
NIBBLE_HD void multiply_fused(const Weight& w, std::int64_t first, const typename Operand::Element* x, Asker& ahead,
                              F32x16 (*totals)[16]) {
  using Decoder = GroupDecoder<Layout>;
  const int fast = Decoder::fast_groups(w, first + N - 1);
  ahead.begin(w, first);
  F32x16 total[N][M];
  for (int n = 0; n < N; ++n) {
    for (int m = 0; m < M; ++m) total[n][m] = broadcast(0);
  }
  for (int begin = 0; begin < fast; begin += kScalesAhead) {
    Scales scales[N];
    ahead.ask_for_scales(w, begin);
    for (int n = 0; n < N; ++n) scales[n].read(w, first + n, begin);
    const int end = fast - begin < kScalesAhead ? fast : begin + kScalesAhead;
    for (int group = begin; group < end; ++group) {
      ahead.ask();
      add_group<Layout, Operand>(
          w, first, group, x, scales, total, [&](int n, int part) __attribute__((always_inline)) {
            return scales[n].template decode<Operand>(w, first + n, group, part);
          });
    }
  }
  for (int n = 0; n < N; ++n) {
    for (int m = 0; m < M; ++m) totals[m][n] = total[n][m];
  }
  if (fast < groups_of(w.k)) add_slow_groups<Layout, Operand, Scales, M, N>(w, first, fast, x, totals);
}

/// The steps after the products, each rounding to T, for columns [first, first + count) of one row of y, at most 16: a
/// step's result is rounded where the next begins, the last one's where it is stored.
template <class Layout, class T>
NIBBLE_HD void finish_products(const LinearTask<Layout, T>& task, F32x16 value, int row, int first, int count) {
  const std::ptrdiff_t place = static_cast<std::ptrdiff_t>(row) * task.weight.n + first;
  if (task.bias != nullptr) value = value + load_some(task.bias + first, count);
  if (task.scale != 1.0F) value = rounded_to<T>(value) * broadcast(task.scale);
  if (task.activation != Activation::kIdentity) value = activate(rounded_to<T>(value), task.activation);
  if (task.residual != nullptr) value = rounded_to<T>(value) + load_some(task.residual + place, count);
  store_some(task.y + place, value, count);
}

/// The same from the lanes of their sums.
template <class Layout, class T>
NIBBLE_HD void finish(const LinearTask<Layout, T>& task, const F32x16 (&totals)[16], int row, int first, int count) {
  const F32x16 products = GroupDecoder<Layout>::finished(task.weight, sums(totals), first, count);
  finish_products(task, products, row, first, count);
}

/// M rows of x by rows [first, last) of w, N at once, which Asker asks for.
template <int M, int N, class Operand, class Scales, template <class, int> class Asker, class Layout, class T>
void multiply_at_once(const LinearTask<Layout, T>& task, int first, int last) {
  const auto* x = static_cast<const typename Operand::Element*>(task.x);
  const auto& w = GroupDecoder<Layout>::template prepared<Operand>(task.weight);
  Asker<Layout, N> ahead(w);
  Asker<Layout, 1> ahead_of_one(w);
  F32x16 totals[M][16] = {};
  for (int begin = first; begin < last; begin += 16) {
    const int count = last - begin < 16 ? last - begin : 16;
    int c = 0;
    for (; c + N <= count; c += N) {
      multiply_fused<Layout, Operand, Scales, M, N>(w, begin + c, x, ahead, columns_from(totals, c));
    }
    for (; N > 1 && c < count; ++c) {
      multiply_fused<Layout, Operand, Scales, M, 1>(w, begin + c, x, ahead_of_one, columns_from(totals, c));
    }
    for (int m = 0; m < M; ++m) finish(task, totals[m], m, begin, count);
  }
}

/// Up to kFusedRows rows of x.
template <int M, class Operand, class Scales, class Layout, class T>
void multiply_few(const LinearTask<Layout, T>& task, int first, int last) {
  constexpr int kShort = kShortOfX<Layout, Operand>[M - 1];
  if constexpr (kShort > 0) {
    constexpr int kGroupBytes = Operand::kGroupElements * static_cast<int>(sizeof(typename Operand::Element));
    if (M * groups_of(task.weight.k) * kGroupBytes <= kShort) {
      return multiply_at_once<M, 1, Operand, Scales, AheadByItself>(task, first, last);
    }
  }
  multiply_at_once<M, kFusedColumns<Layout, Operand>[M - 1], Operand, Scales, Ahead>(task, first, last);
}

static_assert(kPanelRows % kTileColumns == 0 && kTaskRows % kPanelRows == 0, "panels hold whole tiles");

/// A thread's working memory: some rows of w, decoded, and the lanes of all sums of a task.
template <class Operand>
struct alignas(64) Panel {
  typename Operand::Element factors[kPanelRows][kBlock];
  float scales[kPanelRows][kBlockGroups][16];
  float totals[kTaskRows / kTileColumns][kPackedRows][kTileColumns][16];
};

/// Decodes one block of rows [first, first + count) of w; then come zeros up to a multiple of a tile.
template <class Layout, class Operand>
void decode_panel(const typename Layout::View& weight, int first, int count, int first_group, int groups,
                  Panel<Operand>& panel) {
  using Decoder = GroupDecoder<Layout>;
  const auto& w = Decoder::template prepared<Operand>(weight);
  for (int row = 0; row < padded_to(count, kTileColumns); ++row) {
    const int fast = row < count ? Decoder::fast_groups(w, first + row) : 0;
    for (int g = 0; g < groups; ++g) {
      const int group = first_group + g;
      auto* factors = panel.factors[row] + g * kGroup;
      if (group < fast) {
        const void* next = Decoder::row_codes(w, first + row + kPanelRows);
        prefetch<Decoder::kGroupBytes>(static_cast<const char*>(next) + group * Decoder::kGroupBytes);
        const auto zeros = Decoder::zeros(w, first + row, group);
        for (int part = 0; part < kParts; ++part) {
          store_operand(factors + part * kPart,
                        take_off(Decoder::template decode<Operand>(w, first + row, group, part), zeros));
        }
      } else if (row < count) {
        decode_slowly<Operand, Layout>(w, first + row, group, factors);
      } else {
        constexpr float kNothing[kGroup] = {};
        store_group<Operand>(factors, kNothing);
      }
      store(panel.scales[row][g], row < count ? Decoder::scale(w, first + row, group) : broadcast(0));
    }
  }
}

/// Adds M rows of x times N rows of w, `columns` of each, to their totals. Not inlined, so that the totals stay in
/// memory until the end and every register is free for the sums.
template <bool kApart, class Operand, int M, int N>
[[gnu::noinline]] void multiply_tile(const typename Operand::Element* x, const typename Operand::Element (*w)[kBlock],
                                     int columns, const float (*scales)[kBlockGroups][16], float (*totals)[N][16]) {
  typename Operand::Sums partial[M][N];
  for (int m = 0; m < M; ++m) {
    for (int n = 0; n < N; ++n) {
      partial[m][n] = begin_group<kApart, Operand>(load(totals[m][n]), x + m * kPackedBlock<Operand>);
    }
  }
  for (int i = 0; i < columns; i += kPart) {
    Operand weights[N];
    for (int n = 0; n < N; ++n) weights[n] = load_operand<Operand>(w[n] + i);
    for (int m = 0; m < M; ++m) {
      const Operand factors = load_operand<Operand>(x + m * kPackedBlock<Operand> + i);
      for (int n = 0; n < N; ++n) partial[m][n] = accumulate(partial[m][n], weights[n], factors);
    }
  }
  for (int m = 0; m < M; ++m) {
    for (int n = 0; n < N; ++n) {
      const auto* here = x + m * kPackedBlock<Operand>;
      store(totals[m][n], end_group<kApart, Operand>(load(totals[m][n]), partial[m][n], load(scales[n][0]), here));
    }
  }
}

/// Adds one block of M rows of x times a panel of `count` rows to the totals from `column` on.
template <bool kApart, class Operand, int M>
void multiply_rows(const typename Operand::Element* x, int row, Panel<Operand>& panel, int column, int count,
                   int groups) {
  const int step = kApart ? 1 : groups;
  for (int c = 0; c < count; c += kTileColumns) {
    auto* totals = panel.totals[(column + c) / kTileColumns] + row;
    for (int group = 0; group < groups; group += step) {
      const auto* w = reinterpret_cast<const typename Operand::Element(*)[kBlock]>(panel.factors[c] + group * kGroup);
      const auto* scales = reinterpret_cast<const float(*)[kBlockGroups][16]>(panel.scales[c][group]);
      const auto* factors = x + row * kPackedBlock<Operand> + group * Operand::kGroupElements;
      multiply_tile<kApart, Operand, M, kTileColumns>(factors, w, step * kGroup, scales, totals);
    }
  }
}

/// The same for all rows: tiles of M, then one of what is left.
template <bool kApart, class Operand, int M>
void multiply_panel(const typename Operand::Element* x, int row, int rows, Panel<Operand>& panel, int column, int count,
                    int groups) {
  for (; row + M <= rows; row += M) multiply_rows<kApart, Operand, M>(x, row, panel, column, count, groups);
  if constexpr (M > 1) {
    if (row < rows) multiply_panel<kApart, Operand, M - 1>(x, row, rows, panel, column, count, groups);
  }
}

/// Of one panel's rows, from `column` on.
template <class Operand>
void clear_totals(Panel<Operand>& panel, int column, int rows) {
  for (int c = column; c < column + kPanelRows; ++c) {
    for (int row = 0; row < rows; ++row) store(panel.totals[c / kTileColumns][row][c % kTileColumns], broadcast(0));
  }
}

/// Up to kTaskRows rows of w. A block of x stays in the second-level cache, a panel in the first.
template <class Operand, class Layout, class T>
void multiply_many(const LinearTask<Layout, T>& task, int first, int last, void* scratch) {
  auto& panel = *static_cast<Panel<Operand>*>(scratch);
  const auto* x = static_cast<const typename Operand::Element*>(task.x);
  const int groups = groups_of(task.weight.k);
  for (int group = 0; group < groups; group += kBlockGroups, x += task.rows * kPackedBlock<Operand>) {
    const int block_groups = groups - group < kBlockGroups ? groups - group : kBlockGroups;
    for (int begin = first; begin < last; begin += kPanelRows) {
      const int count = last - begin < kPanelRows ? last - begin : kPanelRows;
      decode_panel<Layout, Operand>(task.weight, begin, count, group, block_groups, panel);
      if (group == 0) clear_totals(panel, begin - first, task.rows);
      multiply_panel<kGroupsApart<Layout, Operand>, Operand, kTileRows>(x, 0, task.rows, panel, begin - first, count,
                                                                        block_groups);
    }
  }
  for (int begin = first; begin < last; begin += 16) {
    for (int row = 0; row < task.rows; ++row) {
      F32x16 totals[16];
      for (int c = 0; c < 16; ++c) {
        const int column = begin - first + c;
        totals[c] = load(panel.totals[column / kTileColumns][row][column % kTileColumns]);
      }
      finish(task, totals, row, begin, last - begin < 16 ? last - begin : 16);
    }
  }
}

/// Chooses the loop for M rows of x, or else for fewer, but no less than 2.
template <int M, class Operand, class Layout, class T>
void multiply_at_most(const LinearTask<Layout, T>& task, int first, int last) {
  if constexpr (M > 2) {
    if (task.rows < M) return multiply_at_most<M - 1, Operand>(task, first, last);
  }
  with_scales<Layout>(
      task.weight, [&](auto scales) { multiply_few<M, Operand, typename decltype(scales)::type>(task, first, last); });
}

/// All rows of x without a panel. Sixteen rows of w come from memory once: those that are packed together go one
/// after the other.
template <class Operand, class Layout, class T>
void multiply_some_at_a_time(const LinearTask<Layout, T>& task, int first, int last) {
  const int together = rows_together(task.rows);
  for (int begin = first; begin < last; begin += 16) {
    LinearTask<Layout, T> some = task;
    for (int row = 0; row < task.rows; row += together) {
      const std::ptrdiff_t place = std::ptrdiff_t{row} * task.weight.n;
      some.rows = task.rows - row < together ? task.rows - row : together;
      some.x = static_cast<const typename Operand::Element*>(task.x) + packed_elements<Operand>(task.weight.k, row);
      some.residual = task.residual == nullptr ? nullptr : task.residual + place;
      some.y = task.y + place;
      multiply_at_most<kFusedRows, Operand>(some, begin, last - begin < 16 ? last : begin + 16);
    }
  }
}

template <class Layout, class T>
void multiply(const LinearTask<Layout, T>& task, int first, int last, void* scratch) {
  if (task.rows == 1) {
    return with_operand<Layout, T, CodeOperandOfOne<Layout, T>>(task.weight.k, [&](auto operand) {
      with_scales<Layout>(task.weight, [&](auto scales) {
        multiply_few<1, typename decltype(operand)::type, typename decltype(scales)::type>(task, first, last);
      });
    });
  }
  with_operand<Layout, T, CodeOperandOf<Layout, T>>(task.weight.k, [&](auto operand) {
    using Operand = typename decltype(operand)::type;
    if (task.rows <= kFusedRows) return multiply_at_most<kFusedRows, Operand>(task, first, last);
    if (task.rows < kFewestPanelRows) return multiply_some_at_a_time<Operand>(task, first, last);
    multiply_many<Operand>(task, first, last, scratch);
  });
}

template <class Layout, class T>
void decode_row(const typename Layout::View& w, int row, T* y) {
  for (int col = 0; col < w.k; ++col) y[col] = round_to<T>(w.decode(row, col));
}

}  // namespace
}  // namespace nibble
