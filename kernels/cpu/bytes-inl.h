// Int8Row weights times rows of x that are rounded to signed bytes, 127 for a row's largest magnitude: LLM.int8()
// (arXiv:2208.07339) without its outlier columns. Products are summed as whole numbers, so no order changes them.
#pragma once

namespace nibble {
namespace {

constexpr int kChunk = 64;

/// What stands behind the last block of a packed row of bytes.
struct BytesRow {
  std::int32_t lanes[16];  ///< what the lanes of its products begin with
  float scale;             ///< what one step of its bytes is worth; NaN where an element of x is not finite
};
static_assert(sizeof(BytesRow) <= kBlock, "it has the place of a block");

NIBBLE_HD const BytesRow& bytes_row(const std::int8_t* x, int k, int rows, int row) {
  return *reinterpret_cast<const BytesRow*>(x + packed_row_elements(k) * static_cast<std::size_t>(rows) + row * kBlock);
}

/// As pack_row, for multiply_bytes.
template <class T>
void pack_bytes(const T* x, int k, std::ptrdiff_t stride, void* packed) {
  F32x16 largest = broadcast(0);
  F32x16 nothing = broadcast(0);  // NaN when x has what is not finite
  for (int i = 0; i < k; i += 16) {
    const F32x16 values = load_some(x + i, k - i < 16 ? k - i : 16);
    largest = max(max(values, broadcast(0) - values), largest);
    nothing = fma(values, broadcast(0), nothing);
  }
  float magnitudes[16];
  store(magnitudes, largest);
  const float magnitude = largest_of(magnitudes, 16);
  const F32x16 inverse = broadcast(magnitude > 0 ? 127 / magnitude : 0);

  auto* out = static_cast<std::int8_t*>(packed);
  const int end = padded_to(k, kBlock);
  auto& row = *reinterpret_cast<BytesRow*>(out + end / kBlock * stride);
  std::int32_t lanes[16] = {};
  for (int first = 0; first < end; first += 16) {
    const F32x16 magic = broadcast(0x1.8p23F);  // adding it leaves the nearest whole number in the lowest bits
    float steps[16];
    store(steps, first < k ? load_some(x + first, k - first < 16 ? k - first : 16) * inverse + magic : magic);
    std::int8_t* bytes = out + first / kBlock * stride + first % kBlock;
    for (int i = 0; i < 16; ++i) {
      bytes[i] = static_cast<std::int8_t>(__builtin_bit_cast(std::uint32_t, steps[i]));
      lanes[(first + i) % kChunk / 4] -= kByteOffset * bytes[i];
    }
  }
  for (int i = 0; i < 16; ++i) row.lanes[i] = lanes[i];
  row.scale = magnitude / 127 + sum(nothing);
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
    const std::int8_t* block =
        x + (column / kBlock * rows + row) * static_cast<std::ptrdiff_t>(kBlock) + column % kBlock;
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
    const F32x16 scale = broadcast(bytes_row(x, w.k, rows, row + m).scale);
    for (int n = 0; n < N; ++n) totals[m][n] = to_f32(total[m][n]) * scale;
  }
}

/// Up to 16 columns of M rows of y.
template <int M, class T>
void multiply_bytes_rows(const LinearTask<Int8Row, T>& task, int row, int first, int count) {
  const auto* x = static_cast<const std::int8_t*>(task.x);
  F32x16 totals[M][16] = {};
  int c = 0;
  for (; c + 4 <= count; c += 4) {
    multiply_chunks<M, 4>(task.weight, first + c, x, task.rows, row, columns_from(totals, c));
  }
  for (; c < count; ++c) multiply_chunks<M, 1>(task.weight, first + c, x, task.rows, row, columns_from(totals, c));
  for (int m = 0; m < M; ++m) finish(task, totals[m], row + m, first, count);
}

template <class T>
void multiply_bytes(const LinearTask<Int8Row, T>& task, int first, int last, void*) {
  for (int begin = first; begin < last; begin += 16) {
    const int count = last - begin < 16 ? last - begin : 16;
    int row = 0;
    for (; row + 4 <= task.rows; row += 4) multiply_bytes_rows<4>(task, row, begin, count);
    for (; row < task.rows; ++row) multiply_bytes_rows<1>(task, row, begin, count);
  }
}

}  // namespace
}  // namespace nibble
