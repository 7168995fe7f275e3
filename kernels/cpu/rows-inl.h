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

/// scores[n] = q · keys[n] for 16 keys in a row, of which `count` exist; q is fp32, zero beyond head_dim.
template <class T>
NIBBLE_HD void score_keys(const float* q, const T* keys, int count, int head_dim, float* scores) {
  F32x16 total[16];
  const T* rows[16];
  for (int n = 0; n < 16; ++n) {
    total[n] = broadcast(0);
    rows[n] = keys + static_cast<std::ptrdiff_t>(n < count ? n : 0) * head_dim;
  }
  int d = 0;
  for (; d + 16 <= head_dim; d += 16) {
    const F32x16 factors = load(q + d);
    for (int n = 0; n < 16; ++n) total[n] = fma(factors, load(rows[n] + d), total[n]);
  }
  if (d < head_dim) {
    const F32x16 factors = load(q + d);
    for (int n = 0; n < 16; ++n) total[n] = fma(factors, load_some(rows[n] + d, head_dim - d), total[n]);
  }
  store(scores, sums(total));
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

/// Turns scores into e^(score - largest), zero beyond `count`, and returns their sum.
inline float exponentials(float* scores, int count) {
  const int padded = padded_to(count, 16);
  const float largest = largest_of(scores, count);
  F32x16 total = broadcast(0);
  for (int i = 0; i < padded; i += 16) {
    const int lanes = count - i < 16 ? count - i : 16;
    F32x16 e = exp(load_some(scores + i, lanes) - broadcast(largest));
    if (lanes < 16) e = first_lanes(e, lanes);
    store(scores + i, e);
    total = total + e;
  }
  return sum(total);
}

/// y[d] = sum over keys of weight * value, for D vectors of 16 from column `first` on.
template <int D, class T>
NIBBLE_HD void mix_values(const float* weights, int keys, const T* values, int head_dim, int first, float scale, T* y) {
  F32x16 total[D];
  for (int d = 0; d < D; ++d) total[d] = broadcast(0);
  const int lanes = head_dim - first < 16 * D ? head_dim - first - 16 * (D - 1) : 16;
  for (int key = 0; key < keys; ++key) {
    const T* row = values + static_cast<std::ptrdiff_t>(key) * head_dim + first;
    const F32x16 weight = broadcast(weights[key]);
    for (int d = 0; d < D; ++d) {
      total[d] = fma(weight, D == 1 ? load_some(row, lanes) : load(row + 16 * d), total[d]);
    }
  }
  for (int d = 0; d < D; ++d) store_some(y + first + 16 * d, total[d] * broadcast(scale), D == 1 ? lanes : 16);
}

template <class T>
void attend(const AttendTask<T>& task, float* scratch) {
  float* q = scratch;
  float* scores = q + padded_to(task.head_dim, 16);
  for (int d = task.head_dim; d < padded_to(task.head_dim, 16); ++d) q[d] = 0;
  for (int query = 0; query < task.queries; ++query) {
    const T* row = task.q + query * task.stride;
    T* y = task.y + query * task.stride;
    for (int d = 0; d < task.head_dim; ++d) q[d] = to_float(row[d]);
    const int keys = task.past + query + 1;
    for (int key = 0; key < keys; key += 16) {
      score_keys(q, task.keys + static_cast<std::ptrdiff_t>(key) * task.head_dim, keys - key, task.head_dim,
                 scores + key);
    }
    const float scale = 1.0F / exponentials(scores, keys);
    int first = 0;
    for (; first + 64 <= task.head_dim; first += 64) {
      mix_values<4>(scores, keys, task.values, task.head_dim, first, scale, y);
    }
    for (; first < task.head_dim; first += 16) {
      mix_values<1>(scores, keys, task.values, task.head_dim, first, scale, y);
    }
  }
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
