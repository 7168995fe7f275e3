// What happens to single rows: LayerNorm, attention, sums and conversions.
#pragma once

namespace nibble {
namespace {

/// The sum of f(x[i..]) over a row, 16 lanes at a time; f is given the lanes and how many of them count.
template <class T, class F>
NIBBLE_HD float sum_over(const T* x, int cols, F f) {
  F32x16 total = broadcast(0);
  for (int i = 0; i < cols; i += 16) {
    const int lanes = cols - i < 16 ? cols - i : 16;
    total = total + f(load_some(x + i, lanes), lanes);
  }
  return sum(total);
}

template <class T>
void layer_norm(const T* x, const T* weight, const T* bias, int cols, T* y) {
  constexpr float kEpsilon = 1e-5F;
  const auto count = static_cast<float>(cols);
  const float mean = sum_over(x, cols, [](const F32x16& v, int) { return v; }) / count;
  const F32x16 means = broadcast(mean);
  const float variance = sum_over(x, cols,
                                  [&](const F32x16& v, int lanes) {
                                    const F32x16 d = lanes == 16 ? v - means : first_lanes(v - means, lanes);
                                    return d * d;
                                  }) /
                         count;
  const F32x16 scale = broadcast(1.0F / ::sqrtf(variance + kEpsilon));
  for (int i = 0; i < cols; i += 16) {
    const int lanes = cols - i < 16 ? cols - i : 16;
    F32x16 value = (load_some(x + i, lanes) - means) * scale;
    if (weight != nullptr) value = value * load_some(weight + i, lanes);
    if (bias != nullptr) value = value + load_some(bias + i, lanes);
    store_some(y + i, value, lanes);
  }
}

/// scores[m][n] = q[m] · keys[n] for M queries and 16 keys in a row, of which `count` exist. q is fp32, zero beyond
/// head_dim, and its rows padded to 16; rows of scores are `stride` apart.
template <int M, class T>
NIBBLE_HD void score_keys(const float* q, const T* keys, int count, int head_dim, float* scores,
                          std::ptrdiff_t stride) {
  constexpr int N = M == 1 ? 16 : kTileColumns;
  F32x16 totals[M][16];
  for (int first = 0; first < 16; first += N) {
    F32x16 total[M][N];
    const T* rows[N];
    for (int n = 0; n < N; ++n) {
      for (int m = 0; m < M; ++m) total[m][n] = broadcast(0);
      rows[n] = keys + static_cast<std::ptrdiff_t>(first + n < count ? first + n : 0) * head_dim;
    }
    const auto add = [&](int d, auto&& load_key) __attribute__((always_inline)) {
      F32x16 key[N];
      for (int n = 0; n < N; ++n) key[n] = load_key(rows[n] + d);
      for (int m = 0; m < M; ++m) {
        const F32x16 factors = load(q + m * padded_to(head_dim, 16) + d);
        for (int n = 0; n < N; ++n) total[m][n] = fma(factors, key[n], total[m][n]);
      }
    };
    int d = 0;
    for (; d + 16 <= head_dim; d += 16) add(d, [](const T* row) { return load(row); });
    if (d < head_dim) add(d, [&](const T* row) { return load_some(row, head_dim - d); });
    for (int m = 0; m < M; ++m) {
      for (int n = 0; n < N; ++n) totals[m][first + n] = total[m][n];
    }
  }
  for (int m = 0; m < M; ++m) store(scores + m * stride, sums(totals[m]));
}

/// NaNs do not count; -infinity when there is nothing else.
template <class T>
NIBBLE_HD float largest_of(const T* values, int count) {
  F32x16 largest = broadcast(-__builtin_inff());
  int i = 0;
  for (; i + 16 <= count; i += 16) largest = max(load(values + i), largest);
  float lanes[16];
  store(lanes, largest);
  float result = lanes[0];
  for (const float lane : lanes) result = lane > result ? lane : result;
  for (; i < count; ++i) result = to_float(values[i]) > result ? to_float(values[i]) : result;
  return result;
}

/// Turns scores into e^(score - largest), zero far below it and beyond `count`, and returns their sum.
inline float exponentials(float* scores, int count) {
  const int padded = padded_to(count, 16);
  const float largest = largest_of(scores, count);
  F32x16 total = broadcast(0);
  for (int i = 0; i < padded; i += 16) {
    const int lanes = count - i < 16 ? count - i : 16;
    F32x16 e = exp_or_nothing(load_some(scores + i, lanes) - broadcast(largest));
    if (lanes < 16) e = first_lanes(e, lanes);
    store(scores + i, e);
    total = total + e;
  }
  return sum(total);
}

/// What M queries, of which each sees one key more than the one before it, make of the values: rows of weights and of y
/// are the queries'.
template <class T>
struct Mix {
  const float* weights;
  std::ptrdiff_t weights_stride;
  int keys;  // of the first
  const T* values;
  int head_dim;
  const float* scales;
  T* y;
  std::ptrdiff_t y_stride;
};

/// y[m][d] = scale * sum over keys of weight * value, for D vectors of 16 from column `first` on.
template <int M, int D, class T>
NIBBLE_HD void mix_values(const Mix<T>& mix, int first) {
  F32x16 total[M][D];
  for (int m = 0; m < M; ++m) {
    for (int d = 0; d < D; ++d) total[m][d] = broadcast(0);
  }
  const int left = mix.head_dim - first - 16 * (D - 1);
  const int lanes = left < 16 ? left : 16;
  const auto add = [&](int key, int from) __attribute__((always_inline)) {
    const T* row = mix.values + static_cast<std::ptrdiff_t>(key) * mix.head_dim + first;
    F32x16 value[D];
    for (int d = 0; d < D; ++d) value[d] = D == 1 ? load_some(row, lanes) : load(row + 16 * d);
    for (int m = from; m < M; ++m) {
      const F32x16 weight = broadcast(mix.weights[m * mix.weights_stride + key]);
      for (int d = 0; d < D; ++d) total[m][d] = fma(weight, value[d], total[m][d]);
    }
  };
  for (int key = 0; key < mix.keys; ++key) add(key, 0);
  for (int m = 1; m < M; ++m) add(mix.keys + m - 1, m);
  for (int m = 0; m < M; ++m) {
    T* y = mix.y + m * mix.y_stride + first;
    for (int d = 0; d < D; ++d) {
      store_some(y + 16 * d, total[m][d] * broadcast(mix.scales[m]), D == 1 ? lanes : 16);
    }
  }
}

/// Queries [query, query + M), the same for each as alone.
template <int M, class T>
void attend_queries(const AttendTask<T>& task, int query, float* scratch) {
  const int width = padded_to(task.head_dim, 16);
  const int keys = task.past + query + 1;
  const std::ptrdiff_t stride = padded_to(keys + M - 1, 16);
  float* q = scratch;
  float* scores = q + M * width;
  for (int m = 0; m < M; ++m) {
    const T* row = task.q + (query + m) * task.stride;
    for (int d = 0; d < width; ++d) q[m * width + d] = d < task.head_dim ? to_float(row[d]) : 0;
  }
  for (int key = 0; key < keys + M - 1; key += 16) {
    score_keys<M>(q, task.keys + static_cast<std::ptrdiff_t>(key) * task.head_dim, keys + M - 1 - key, task.head_dim,
                  scores + key, stride);
  }
  float scales[M];
  for (int m = 0; m < M; ++m) scales[m] = 1.0F / exponentials(scores + m * stride, keys + m);
  const Mix<T> mix{scores, stride, keys, task.values, task.head_dim, scales, task.y + query * task.stride, task.stride};
  constexpr int D = M == 1 ? 4 : kTileColumns;
  int first = 0;
  for (; first + 16 * D <= task.head_dim; first += 16 * D) mix_values<M, D>(mix, first);
  for (; first < task.head_dim; first += 16) mix_values<M, 1>(mix, first);
}

/// Queries of a task at most, and those that are computed together, where there are as many.
constexpr int kLaneQueries = 16;
constexpr int kQueriesTogether = 4;

template <class T>
void attend(const AttendTask<T>& task, float* scratch) {
  int query = 0;
  for (; query + kQueriesTogether <= task.queries; query += kQueriesTogether) {
    attend_queries<kQueriesTogether>(task, query, scratch);
  }
  for (; query < task.queries; ++query) attend_queries<1>(task, query, scratch);
}

template <class T>
void add(const T* x, int count, T* y) {
  for (int i = 0; i < count; i += 16) {
    const int lanes = count - i < 16 ? count - i : 16;
    store_some(y + i, load_some(y + i, lanes) + load_some(x + i, lanes), lanes);
  }
}

template <class T>
void widen(const T* x, std::size_t count, float* y) {
  for (std::size_t i = 0; i < count; ++i) y[i] = to_float(x[i]);
}

/// The lowest index of the largest value.
template <class T>
int argmax(const T* x, int count) {
  constexpr int kStretch = 512;
  float largest = -__builtin_inff();
  int begin = 0;  // of the stretch that holds it
  for (int i = 0; i < count; i += kStretch) {
    const float here = largest_of(x + i, count - i < kStretch ? count - i : kStretch);
    begin = here > largest ? i : begin;
    largest = here > largest ? here : largest;
  }
  for (int i = begin; i < count; ++i) {
    if (to_float(x[i]) == largest) return i;
  }
  return 0;
}

}  // namespace
}  // namespace nibble
