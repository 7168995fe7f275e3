// int8 weights times rows of x that are rounded to signed bytes, 127 for a row's largest magnitude, as by LLM.int8()
// (arXiv:2208.07339). Products are summed as whole numbers, so no order changes them. Outliers, elements of x that are
// too large for that, are left out of the bytes and multiplied as they are.
#pragma once

namespace nibble {
namespace {

constexpr int kChunk = 64;

/// What elements of x are outliers beside weights of a layout: those of this magnitude and more, and NaNs. Beside
/// Int8Row only what is not finite.
template <class Layout>
constexpr float kOutlier = __builtin_inff();
template <>
constexpr float kOutlier<Int8Decomp> = Int8Decomp::kOutlier;

/// 16 elements of x, as they are compared and rounded: in fp16 beside Int8Decomp. Zeros beyond its end.
template <class Layout, class T>
NIBBLE_HD F32x16 load_elements(const T* x, int k, int first) {
  if (first >= k) return broadcast(0);
  const F32x16 values = load_some(x + first, k - first < 16 ? k - first : 16);
  if constexpr (std::is_same_v<Layout, Int8Decomp>) return rounded_to<Half>(values);
  return values;
}

/// What a product needs of a packed row beside its bytes. Behind it, a bit for each column that is an outlier's.
struct BytesRow {
  std::int32_t lanes[16];  ///< what the lanes of its products begin with
  float magnitude;         ///< what 127 stands for
  bool has_outliers;
  const void* x;  ///< the row itself
};
NIBBLE_HD std::uint64_t* outliers_of(BytesRow& row) { return reinterpret_cast<std::uint64_t*>(&row + 1); }
NIBBLE_HD const std::uint64_t* outliers_of(const BytesRow& row) {
  return reinterpret_cast<const std::uint64_t*>(&row + 1);
}

/// Those of all rows stand behind `bytes` bytes, which take at most two a column; with them it is less than the four
/// that packed rows have room for.
NIBBLE_HD std::ptrdiff_t place_of_bytes_row(std::ptrdiff_t bytes, int k, int row) {
  return bytes + std::ptrdiff_t{row} * padded_to(static_cast<int>(sizeof(BytesRow)) + padded_to(k, kGroup) / 8, kChunk);
}

/// What does not depend on the order of a row's bytes.
template <class Layout, class T>
void begin_bytes_row(const T* x, int k, BytesRow& row) {
  F32x16 largest = broadcast(0);
  for (int first = 0; first < k; first += 16) {
    const F32x16 values = inside(load_elements<Layout>(x, k, first), kOutlier<Layout>).values;
    largest = max(max(values, broadcast(0) - values), largest);
  }
  float magnitudes[16];
  store(magnitudes, largest);
  row = {{}, largest_of(magnitudes, 16), false, x};
}

/// Rounds columns [first, first + kChunk), zero beyond the last.
template <class Layout, class T>
NIBBLE_HD void round_to_bytes(const T* x, int k, int first, BytesRow& row, std::int8_t* bytes) {
  const F32x16 inverse = broadcast(row.magnitude > 0 ? 127 / row.magnitude : 0);
  std::uint64_t outliers = 0;
  for (int begin = 0; begin < kChunk; begin += 16) {
    const Inside found = inside(load_elements<Layout>(x, k, first + begin), kOutlier<Layout>);
    // Adding it leaves the nearest whole number in the lowest bits.
    store_low_bytes(bytes + begin, found.values * inverse + broadcast(0x1.8p23F));
    outliers |= std::uint64_t{found.others} << begin;
  }
  outliers_of(row)[first / kChunk] = outliers;
  row.has_outliers |= outliers != 0;
}

/// Bytes in lanes, packed[blocks of columns, rows, kBlock]: how many, and where column `i` of a row is.
NIBBLE_HD std::ptrdiff_t bytes_in_lanes(int k, int rows) { return std::ptrdiff_t{rows} * padded_to(k, kBlock); }
NIBBLE_HD std::ptrdiff_t place_in_lanes(int rows, int row, int i) {
  return (static_cast<std::ptrdiff_t>(i / kBlock) * rows + row) * kBlock + i % kBlock;
}
NIBBLE_HD const BytesRow& bytes_row_in_lanes(const std::int8_t* x, int k, int rows, int row) {
  return *reinterpret_cast<const BytesRow*>(x + place_of_bytes_row(bytes_in_lanes(k, rows), k, row));
}

/// As pack_row, for multiply_bytes.
template <class Layout, class T>
void pack_bytes(const T* x, int k, int rows, int row, void* packed) {
  auto* out = static_cast<std::int8_t*>(packed);
  auto& state = *reinterpret_cast<BytesRow*>(out + place_of_bytes_row(bytes_in_lanes(k, rows), k, row));
  begin_bytes_row<Layout>(x, k, state);
  for (int first = 0; first < k; first += kChunk) {
    std::int8_t* bytes = out + place_in_lanes(rows, row, first);
    round_to_bytes<Layout>(x, k, first, state, bytes);
    for (int i = 0; i < kChunk; ++i) state.lanes[i / 4] -= kByteOffset * bytes[i];
  }
}

/// totals[m][n] = the lanes of x[m] · w[n] for M rows of x from `row` on and N rows of w.
template <int M, int N>
NIBBLE_HD void multiply_chunks(const Int8Row::View& w, std::int64_t first, const std::int8_t* x, int rows, int row,
                               I32x16 (*totals)[16]) {
  I32x16 total[M][N];
  for (int m = 0; m < M; ++m) {
    for (int n = 0; n < N; ++n) total[m][n] = load(bytes_row_in_lanes(x, w.k, rows, row + m).lanes);
  }
  const auto add_chunk = [&](int column, auto&& weight_of) __attribute__((always_inline)) {
    Bytes64 weights[N];
    for (int n = 0; n < N; ++n) weights[n] = load_weight_bytes(weight_of(n));
    const std::int8_t* block = x + place_in_lanes(rows, row, column);
    for (int m = 0; m < M; ++m) {
      const Bytes64 factors = load_factor_bytes(block + m * kBlock);
      for (int n = 0; n < N; ++n) total[m][n] = accumulate(total[m][n], weights[n], factors);
    }
  };
  Ahead<Int8Row, N> ahead(w);
  ahead.begin(w, first);
  const std::int8_t* codes = w.codes + first * w.k;
  int column = 0;
  for (; column + kChunk <= w.k; column += kChunk) {
    if (row == 0 && column % kGroup == 0) ahead.ask();
    add_chunk(
        column, [&](int n) __attribute__((always_inline)) { return codes + std::int64_t{n} * w.k + column; });
  }
  if (column < w.k) {
    std::int8_t last[N][kChunk] = {};
    for (int n = 0; n < N; ++n) {
      for (int i = 0; i < w.k - column; ++i) last[n][i] = codes[std::int64_t{n} * w.k + column + i];
    }
    add_chunk(
        column, [&](int n) __attribute__((always_inline)) { return last[n]; });
  }
  for (int m = 0; m < M; ++m) {
    for (int n = 0; n < N; ++n) totals[m][n] = total[m][n];
  }
}

/// The products of a row's outliers and up to 16 rows of w, in the order of columns.
template <class Layout, class T>
NIBBLE_HD F32x16 multiply_outliers(const typename Layout::View& w, const BytesRow& row, int first, int count) {
  const auto* x = static_cast<const T*>(row.x);
  F32x16 total = broadcast(0);
  for (int chunk = 0; chunk < w.k; chunk += kChunk) {
    for (std::uint64_t left = outliers_of(row)[chunk / kChunk]; left != 0; left &= left - 1) {
      const int column = chunk + __builtin_ctzll(left);
      float weights[16] = {};
      for (int i = 0; i < count; ++i) weights[i] = w.decode(first + i, column);
      total = fma(rounded_to<T>(load(weights)), broadcast(to_float(x[column])), total);
    }
  }
  return total;
}

/// Up to 16 columns of a row of y from the sums of its bytes' products.
template <class Layout, class T>
NIBBLE_HD void finish_bytes(const LinearTask<Layout, T>& task, const I32x16& sums, const BytesRow& bytes, int row,
                            int first, int count) {
  const F32x16 scale = load_some(task.weight.scb + first, count) * broadcast(bytes.magnitude);
  F32x16 value = to_f32(sums) * scale * broadcast(Int8Row::View::kInverse127Squared);
  if (bytes.has_outliers) value = value + multiply_outliers<Layout, T>(task.weight, bytes, first, count);
  finish_products(task, value, row, first, count);
}

/// Up to 16 columns of M rows of y.
template <int M, class Layout, class T>
void multiply_bytes_rows(const LinearTask<Layout, T>& task, int row, int first, int count) {
  const auto* x = static_cast<const std::int8_t*>(task.x);
  const Int8Row::View& w = task.weight;
  I32x16 totals[M][16] = {};
  int c = 0;
  for (; c + 4 <= count; c += 4) {
    multiply_chunks<M, 4>(w, first + c, x, task.rows, row, columns_from(totals, c));
  }
  for (; c < count; ++c) multiply_chunks<M, 1>(w, first + c, x, task.rows, row, columns_from(totals, c));
  for (int m = 0; m < M; ++m) {
    finish_bytes(task, sums(totals[m]), bytes_row_in_lanes(x, w.k, task.rows, row + m), row + m, first, count);
  }
}

template <class Layout, class T>
void multiply_bytes(const LinearTask<Layout, T>& task, int first, int last, void*) {
  for (int begin = first; begin < last; begin += 16) {
    const int count = last - begin < 16 ? last - begin : 16;
    int row = 0;
    for (; row + 4 <= task.rows; row += 4) multiply_bytes_rows<4>(task, row, begin, count);
    for (; row < task.rows; ++row) multiply_bytes_rows<1>(task, row, begin, count);
  }
}

}  // namespace
}  // namespace nibble
