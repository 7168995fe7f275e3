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

/// What stands behind the last block of a packed row of bytes. Behind it, a bit for each column that is an outlier's.
/// All of it takes less than the four bytes a column that packed rows have room for.
struct BytesRow {
  std::int32_t lanes[16];  ///< what the lanes of its products begin with
  float magnitude;         ///< what 127 stands for
  bool has_outliers;
  const void* x;  ///< the row itself
};
static_assert(sizeof(BytesRow) <= kBlock, "it has the place of a block");

/// Byte `i` of a packed row, of `rows` that share blocks.
NIBBLE_HD const std::int8_t* packed_byte(const std::int8_t* x, int rows, int row, int i) {
  return x + (static_cast<std::ptrdiff_t>(i / kBlock) * rows + row) * kBlock + i % kBlock;
}
NIBBLE_HD const BytesRow& bytes_row(const std::int8_t* x, int k, int rows, int row) {
  return *reinterpret_cast<const BytesRow*>(packed_byte(x, rows, row, padded_to(k, kBlock)));
}
/// Of columns [first, first + kChunk).
NIBBLE_HD std::uint64_t outliers_of(const std::int8_t* x, int k, int rows, int row, int first) {
  const int place = padded_to(k, kBlock) + kBlock + first / 8;
  return *reinterpret_cast<const std::uint64_t*>(packed_byte(x, rows, row, place));
}

/// As pack_row, for multiply_bytes.
template <class Layout, class T>
void pack_bytes(const T* x, int k, std::ptrdiff_t stride, void* packed) {
  float magnitudes[16] = {};
  for (int first = 0; first < k; first += 16) {
    float values[16];
    store(values, load_elements<Layout>(x, k, first));
    for (int i = 0; i < 16; ++i) {
      const float magnitude = __builtin_fabsf(values[i]);
      const float counted = magnitude < kOutlier<Layout> ? magnitude : 0;
      magnitudes[i] = counted > magnitudes[i] ? counted : magnitudes[i];
    }
  }
  const float magnitude = largest_of(magnitudes, 16);
  const float inverse = magnitude > 0 ? 127 / magnitude : 0;

  const int end = padded_to(k, kBlock);
  const auto place_of = [&](int i) { return static_cast<std::int8_t*>(packed) + i / kBlock * stride + i % kBlock; };
  auto& row = *reinterpret_cast<BytesRow*>(place_of(end));
  std::int32_t lanes[16] = {};
  std::uint64_t outliers = 0, any = 0;
  for (int first = 0; first < end; first += 16) {
    float values[16], steps[16];
    store(values, load_elements<Layout>(x, k, first));
    // Adding it leaves the nearest whole number in the lowest bits.
    constexpr float kMagic = 0x1.8p23F;
    std::uint64_t found = 0;
    for (int i = 0; i < 16; ++i) {
      const bool inside = __builtin_fabsf(values[i]) < kOutlier<Layout>;
      steps[i] = (inside ? values[i] : 0) * inverse + kMagic;
      found |= static_cast<std::uint64_t>(!inside) << i;
    }
    std::int8_t* bytes = place_of(first);
    for (int i = 0; i < 16; ++i) {
      bytes[i] = static_cast<std::int8_t>(__builtin_bit_cast(std::uint32_t, steps[i]));
      lanes[(first + i) % kChunk / 4] -= kByteOffset * bytes[i];
    }
    outliers |= found << first % kChunk;
    if ((first + 16) % kChunk == 0) {
      *reinterpret_cast<std::uint64_t*>(place_of(end + kBlock + first / kChunk * 8)) = outliers;
      any |= outliers;
      outliers = 0;
    }
  }
  for (int i = 0; i < 16; ++i) row.lanes[i] = lanes[i];
  row.magnitude = magnitude;
  row.has_outliers = any != 0;
  row.x = x;
}

/// totals[m][n] = the lanes of x[m] · w[n] for M rows of x from `row` on and N rows of w.
template <int M, int N>
NIBBLE_HD void multiply_chunks(const Int8Row::View& w, std::int64_t first, const std::int8_t* x, int rows, int row,
                               F32x16 (*totals)[16]) {
  I32x16 total[M][N];
  for (int m = 0; m < M; ++m) {
    for (int n = 0; n < N; ++n) total[m][n] = load(bytes_row(x, w.k, rows, row + m).lanes);
  }
  const auto add_chunk = [&](int column, auto&& weight_of) __attribute__((always_inline)) {
    Bytes64 weights[N];
    for (int n = 0; n < N; ++n) weights[n] = load_weight_bytes(weight_of(n));
    const std::int8_t* block = packed_byte(x, rows, row, column);
    for (int m = 0; m < M; ++m) {
      const Bytes64 factors = load_factor_bytes(block + m * kBlock);
      for (int n = 0; n < N; ++n) total[m][n] = accumulate(total[m][n], weights[n], factors);
    }
  };
  Ahead<Int8Row, N> ahead(w, first);
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
    for (int n = 0; n < N; ++n) totals[m][n] = to_f32(total[m][n]);
  }
}

/// The products of a row's outliers and up to 16 rows of w, in the order of columns.
template <class Layout, class T>
NIBBLE_HD F32x16 multiply_outliers(const LinearTask<Layout, T>& task, int row, int first, int count) {
  const auto* packed = static_cast<const std::int8_t*>(task.x);
  const auto& w = task.weight;
  const auto* x = static_cast<const T*>(bytes_row(packed, w.k, task.rows, row).x);
  F32x16 total = broadcast(0);
  for (int chunk = 0; chunk < w.k; chunk += kChunk) {
    for (std::uint64_t left = outliers_of(packed, w.k, task.rows, row, chunk); left != 0; left &= left - 1) {
      const int column = chunk + __builtin_ctzll(left);
      float weights[16] = {};
      for (int i = 0; i < count; ++i) weights[i] = w.decode(first + i, column);
      total = fma(rounded_to<T>(load(weights)), broadcast(to_float(x[column])), total);
    }
  }
  return total;
}

/// Up to 16 columns of M rows of y.
template <int M, class Layout, class T>
void multiply_bytes_rows(const LinearTask<Layout, T>& task, int row, int first, int count) {
  const auto* x = static_cast<const std::int8_t*>(task.x);
  const Int8Row::View& w = task.weight;
  F32x16 totals[M][16] = {};
  int c = 0;
  for (; c + 4 <= count; c += 4) {
    multiply_chunks<M, 4>(w, first + c, x, task.rows, row, columns_from(totals, c));
  }
  for (; c < count; ++c) multiply_chunks<M, 1>(w, first + c, x, task.rows, row, columns_from(totals, c));
  for (int m = 0; m < M; ++m) {
    const BytesRow& bytes = bytes_row(x, w.k, task.rows, row + m);
    const F32x16 scale = load_some(w.scb + first, count) * broadcast(bytes.magnitude);
    F32x16 value = sums(totals[m]) * scale * broadcast(Int8Row::View::kInverse127Squared);
    if (bytes.has_outliers) value = value + multiply_outliers(task, row + m, first, count);
    finish_products(task, value, row + m, first, count);
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
