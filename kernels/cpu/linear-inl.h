// y = epilogue(x w^T + bias).
//
// Every product of one row of x and one row of w is summed in the same 16 lanes over the columns in order, whatever the
// tile it is computed in; so a result depends on nothing but its two rows.
#pragma once

namespace nibble {
namespace {

/// One row of x in the order the decoder gives weights in, zero beyond its end.
template <class Layout, class T>
void pack_row(const T* x, int k, void* packed) {
  using Operand = OperandOf<T>;
  auto* out = static_cast<typename Operand::Element*>(packed);
  for (int first = 0; first < k; first += kGroup, out += kGroup) {
    float values[kGroup] = {};
    const int count = k - first < kGroup ? k - first : kGroup;
    for (int i = 0; i < count; ++i) values[packed_place<Layout>(i)] = to_float(x[first + i]);
    store_operand(out, make_operand<Operand>(load(values), load(values + 16)));
  }
}

/// sums[m][c] = x[m] · w[first + c] for M rows of x and N rows of w, decoded on the way.
template <class Layout, class Operand, int M, int N>
void multiply_fused(const typename Layout::View& w, int first, const typename Operand::Element* x,
                    float (*sums)[kPanelRows]) {
  const int groups = padded_to(w.k, kGroup) / kGroup;
  const int fast = GroupDecoder<Layout>::fast_groups(w);
  const std::ptrdiff_t stride = static_cast<std::ptrdiff_t>(groups) * kGroup;
  F32x16 total[N][M];
  for (int n = 0; n < N; ++n) {
    for (int m = 0; m < M; ++m) total[n][m] = broadcast(0);
  }
  const auto add_group = [&](int group, auto&& decode) __attribute__((always_inline)) {
    Operand factors[M];
    for (int m = 0; m < M; ++m) factors[m] = load_operand<Operand>(x + m * stride + group * kGroup);
    for (int n = 0; n < N; ++n) {
      const Operand weights = decode(first + n, group);
      for (int m = 0; m < M; ++m) total[n][m] = accumulate(total[n][m], weights, factors[m]);
    }
  };
  for (int group = 0; group < fast; ++group) {
    add_group(
        group, [&](int row, int g) __attribute__((always_inline)) {
          GroupDecoder<Layout>::prefetch(w, row + N, g);
          return GroupDecoder<Layout>::template decode<Operand>(w, row, g);
        });
  }
  for (int group = fast; group < groups; ++group) {
    add_group(group, [&](int row, int g) { return decode_slowly<Operand, Layout>(w, row, g); });
  }
  for (int n = 0; n < N; ++n) {
    for (int m = 0; m < M; ++m) sums[m][n] = sum(total[n][m]);
  }
}

/// sums[m][n] = x[m] · w[n] for M rows of x and N decoded rows of w.
template <class Operand, int M, int N>
void multiply_tile(const typename Operand::Element* x, const typename Operand::Element* w, int groups,
                   float (*sums)[kPanelRows]) {
  const std::ptrdiff_t stride = static_cast<std::ptrdiff_t>(groups) * kGroup;
  F32x16 total[M][N];
  for (int m = 0; m < M; ++m) {
    for (int n = 0; n < N; ++n) total[m][n] = broadcast(0);
  }
  for (int group = 0; group < groups; ++group) {
    Operand weights[N];
    for (int n = 0; n < N; ++n) weights[n] = load_operand<Operand>(w + n * stride + group * kGroup);
    for (int m = 0; m < M; ++m) {
      const Operand factors = load_operand<Operand>(x + m * stride + group * kGroup);
      for (int n = 0; n < N; ++n) total[m][n] = accumulate(total[m][n], weights[n], factors);
    }
  }
  for (int m = 0; m < M; ++m) {
    for (int n = 0; n < N; ++n) sums[m][n] = sum(total[m][n]);
  }
}

/// The steps after the sum, each rounding to T, for columns [first, first + count) of one row of y.
template <class T, class Task>
void finish(const Task& task, const float* sums, int row, int first, int count) {
  const std::ptrdiff_t place = static_cast<std::ptrdiff_t>(row) * task.weight.n + first;
  for (int c = 0; c < count; c += 16) {
    const int lanes = count - c < 16 ? count - c : 16;
    F32x16 value = load(sums + c);
    if (task.bias != nullptr) value = value + load_some(task.bias + first + c, lanes);
    value = rounded_to<T>(value);
    if (task.scale != 1.0F) value = rounded_to<T>(value * broadcast(task.scale));
    if (task.activation != Activation::kIdentity) value = rounded_to<T>(activate(value, task.activation));
    if (task.residual != nullptr) value = value + load_some(task.residual + place + c, lanes);
    store_some(task.y + place + c, value, lanes);
  }
}

/// Up to kFusedRows rows of x.
template <int M, class Layout, class T>
void multiply_few(const LinearTask<Layout, T>& task, int first, int last) {
  using Operand = OperandOf<T>;
  constexpr int N = kFusedColumns[M - 1];
  const auto* x = static_cast<const typename Operand::Element*>(task.x);
  alignas(64) float sums[M][kPanelRows];
  for (int begin = first; begin < last; begin += kPanelRows) {
    const int count = last - begin < kPanelRows ? last - begin : kPanelRows;
    int c = 0;
    for (; c + N <= count; c += N) {
      multiply_fused<Layout, Operand, M, N>(task.weight, begin + c, x, columns_from(sums, c));
    }
    for (; c < count; ++c) multiply_fused<Layout, Operand, M, 1>(task.weight, begin + c, x, columns_from(sums, c));
    for (int m = 0; m < M; ++m) finish<T>(task, sums[m], m, begin, count);
  }
}

static_assert(kPanelRows % kTileColumns == 0 && 4 % kTileColumns == 0, "panels hold whole tiles");

/// Rows [first, first + count) of w, decoded and packed; then rows of zeros up to a multiple of a tile.
template <class Layout, class Operand>
void decode_panel(const typename Layout::View& w, int first, int count, typename Operand::Element* panel) {
  const int groups = padded_to(w.k, kGroup) / kGroup;
  const int fast = GroupDecoder<Layout>::fast_groups(w);
  for (int row = first; row < first + count; ++row) {
    for (int group = 0; group < fast; ++group, panel += kGroup) {
      store_operand(panel, GroupDecoder<Layout>::template decode<Operand>(w, row, group));
    }
    for (int group = fast; group < groups; ++group, panel += kGroup) {
      store_operand(panel, decode_slowly<Operand, Layout>(w, row, group));
    }
  }
  const int missing = padded_to(count, kTileColumns) - count;
  for (int group = 0; group < missing * groups; ++group, panel += kGroup) {
    store_operand(panel, make_operand<Operand>(broadcast(0), broadcast(0)));
  }
}

/// M rows of x times a panel.
template <int M, class T, class Task>
void multiply_panel(const Task& task, const typename OperandOf<T>::Element* panel, int row, int first, int count) {
  using Operand = OperandOf<T>;
  const int groups = padded_to(task.weight.k, kGroup) / kGroup;
  const std::ptrdiff_t stride = static_cast<std::ptrdiff_t>(groups) * kGroup;
  const auto* x = static_cast<const typename Operand::Element*>(task.x) + row * stride;
  alignas(64) float sums[M][kPanelRows];
  for (int c = 0; c < count; c += kTileColumns) {
    multiply_tile<Operand, M, kTileColumns>(x, panel + c * stride, groups, columns_from(sums, c));
  }
  for (int m = 0; m < M; ++m) finish<T>(task, sums[m], row + m, first, count);
}

template <class Layout, class T>
void multiply_many(const LinearTask<Layout, T>& task, int first, int last, void* scratch) {
  using Operand = OperandOf<T>;
  auto* panel = static_cast<typename Operand::Element*>(scratch);
  const int step = panel_rows(task.weight.k);
  for (int begin = first; begin < last; begin += step) {
    const int count = last - begin < step ? last - begin : step;
    decode_panel<Layout, Operand>(task.weight, begin, count, panel);
    int row = 0;
    for (; row + kTileRows <= task.rows; row += kTileRows) {
      multiply_panel<kTileRows, T>(task, panel, row, begin, count);
    }
    for (; row < task.rows; ++row) multiply_panel<1, T>(task, panel, row, begin, count);
  }
}

template <class Layout, class T>
void multiply(const LinearTask<Layout, T>& task, int first, int last, void* scratch) {
  switch (task.rows) {
    case 1:
      return multiply_few<1>(task, first, last);
    case 2:
      return multiply_few<2>(task, first, last);
    case 3:
      return multiply_few<3>(task, first, last);
    case 4:
      return multiply_few<4>(task, first, last);
    default:
      return multiply_many(task, first, last, scratch);
  }
}

template <class Layout, class T>
void decode_row(const typename Layout::View& w, int row, T* y) {
  for (int col = 0; col < w.k; ++col) y[col] = round_to<T>(w.decode(row, col));
}

}  // namespace
}  // namespace nibble
