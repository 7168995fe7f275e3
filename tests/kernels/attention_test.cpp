// Attention over a cache against fp64, and its independence of batches, chunks and threads.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/kernels/matrix.h"

namespace nibble {
namespace {

using Parameters = std::tuple<CpuTarget, DType>;

KvCache make_cache(DType dtype, int layers, int sequences, int heads, int context, int head_dim) {
  const auto bytes = static_cast<std::size_t>(KvCache::bytes(dtype, layers, sequences, heads, context, head_dim)) / 2;
  return {Buffer::allocate(bytes), Buffer::allocate(bytes), dtype, layers, sequences, heads, context, head_dim};
}

class AttentionTest : public testing::TestWithParam<Parameters> {
 protected:
  CpuTarget target() const { return std::get<0>(GetParam()); }
  DType dtype() const { return std::get<1>(GetParam()); }
};

/// One head of one query over `keys` rows, in fp64. `magnitude` bounds what roundings are relative to.
void expect_attended(const Matrix& q, const Matrix& k, const Matrix& v, const Matrix& y, int row, int first_key,
                     int head, int head_dim) {
  const auto width = static_cast<std::size_t>(q.tensor().cols);
  const auto at = [&](const std::vector<float>& values, int r, int d) {
    return static_cast<double>(
        values[static_cast<std::size_t>(r) * width + static_cast<std::size_t>(head * head_dim + d)]);
  };
  const std::vector<float> qs = q.values(), ks = k.values(), vs = v.values(), ys = y.values();
  std::vector<double> scores;
  double largest = -1e300, score_error = 0;
  for (int key = first_key; key <= row; ++key) {
    double score = 0, magnitude = 0;
    for (int d = 0; d < head_dim; ++d) {
      score += at(qs, row, d) * at(ks, key, d);
      magnitude += std::fabs(at(qs, row, d) * at(ks, key, d));
    }
    scores.push_back(score);
    largest = std::max(largest, score);
    score_error = std::max(score_error, magnitude * 0x1p-23 * (head_dim / 16.0 + 6));
  }
  double sum = 0;
  for (double& score : scores) sum += score = std::exp(score - largest);
  for (int d = 0; d < head_dim; ++d) {
    double value = 0, magnitude = 0;
    for (std::size_t i = 0; i < scores.size(); ++i) {
      const double product = scores[i] / sum * at(vs, first_key + static_cast<int>(i), d);
      value += product;
      magnitude += std::fabs(product);
    }
    const double additions = static_cast<double>(scores.size()) + 16;
    const double bound =
        magnitude * (2 * score_error + additions * 0x1p-23) + std::fabs(value) * epsilon(y.tensor().dtype) + 0x1p-24;
    ASSERT_NEAR(at(ys, row, d), value, bound)
        << "row " << row << " head " << head << " of size " << head_dim << " dim " << d;
  }
}

TEST_P(AttentionTest, MatchesTheFormulaForAnyHeadSize) {
  CpuBackend backend(2, target());
  constexpr int kRows = 37, kHeads = 3;
  for (const int head_dim : {1, 8, 16, 20, 64, 80, 96, 128, 130}) {
    const int width = kHeads * head_dim;
    const Matrix q(dtype(), kRows, width, 1), k(dtype(), kRows, width, 2), v(dtype(), kRows, width, 3);
    const Matrix y(dtype(), kRows, width);
    KvCache cache = make_cache(dtype(), 2, 1, kHeads, kRows, head_dim);
    const Segment all{0, 0, kRows, 0};
    backend.attend(q.tensor(), k.tensor(), v.tensor(), {&all, 1}, 1, cache, y.tensor());
    for (const int row : {0, 1, 15, 16, 36}) {
      for (int head = 0; head < kHeads; ++head) expect_attended(q, k, v, y, row, 0, head, head_dim);
    }
  }
}

TEST_P(AttentionTest, GivesASequenceTheSameBitsAloneChunkedAndInABatch) {
  constexpr int kHeads = 2, kHeadDim = 24, kWidth = kHeads * kHeadDim;
  constexpr int kLengths[] = {40, 7, 23};
  constexpr int kRows = 70;
  const Matrix q(dtype(), kRows, kWidth, 4), k(dtype(), kRows, kWidth, 5), v(dtype(), kRows, kWidth, 6);

  CpuBackend one(1, target());
  const Matrix alone(dtype(), kRows, kWidth);
  int first = 0;
  for (const int length : kLengths) {
    KvCache cache = make_cache(dtype(), 1, 1, kHeads, 64, kHeadDim);
    for (int row = 0; row < length; ++row) {
      const Segment step{0, 0, 1, row};
      const int r = first + row;
      one.attend(q.rows(r, 1), k.rows(r, 1), v.rows(r, 1), {&step, 1}, 0, cache, alone.rows(r, 1));
    }
    first += length;
  }

  for (const int threads : {1, 2, 5}) {
    CpuBackend backend(threads, target());
    const Matrix y(dtype(), kRows, kWidth);
    KvCache cache = make_cache(dtype(), 1, 3, kHeads, 64, kHeadDim);
    const Segment batch[] = {{2, 0, 40, 0}, {0, 40, 7, 0}, {1, 47, 23, 0}};
    backend.attend(q.tensor(), k.tensor(), v.tensor(), batch, 0, cache, y.tensor());
    EXPECT_EQ(y.values(), alone.values()) << "threads " << threads;
  }

  CpuBackend backend(2, target());
  const Matrix y(dtype(), kRows, kWidth);
  KvCache cache = make_cache(dtype(), 1, 1, kHeads, 64, kHeadDim);
  for (const auto& [past, rows] : {std::pair{0, 17}, std::pair{17, 3}, std::pair{20, 20}}) {
    const Segment chunk{0, 0, rows, past};
    backend.attend(q.rows(past, rows), k.rows(past, rows), v.rows(past, rows), {&chunk, 1}, 0, cache,
                   y.rows(past, rows));
  }
  const std::vector<float> chunked = y.values(), expected = alone.values();
  EXPECT_TRUE(std::equal(chunked.begin(), chunked.begin() + 40 * kWidth, expected.begin()));
}

TEST_P(AttentionTest, SurvivesScoresFarApart) {
  // One key wins by hundreds: its value comes out exactly, and nothing overflows.
  CpuBackend backend(1, target());
  std::vector<float> keys(32 * 16, -4.0F), values = random_values(32 * 16, 8);
  std::fill(keys.begin() + 5 * 16, keys.begin() + 6 * 16, 4.0F);
  const Matrix q(dtype(), 32, 16, std::vector<float>(32 * 16, 8.0F)), k(dtype(), 32, 16, keys),
      v(dtype(), 32, 16, values);
  const Matrix y(dtype(), 32, 16);
  KvCache cache = make_cache(dtype(), 1, 1, 1, 32, 16);
  const Segment all{0, 0, 32, 0};
  backend.attend(q.tensor(), k.tensor(), v.tensor(), {&all, 1}, 0, cache, y.tensor());
  const std::vector<float> found = y.values(), expected = v.values();
  EXPECT_TRUE(std::equal(found.begin() + 31 * 16, found.end(), expected.begin() + 5 * 16));
}

TEST_P(AttentionTest, WritesKeysAndValuesOnlyWhereTheyBelong) {
  CpuBackend backend(2, target());
  constexpr int kHeads = 2, kHeadDim = 5, kWidth = kHeads * kHeadDim;
  KvCache cache = make_cache(dtype(), 2, 2, kHeads, 8, kHeadDim);
  std::fill_n(cache.keys.mutable_as<std::uint8_t>(), cache.keys.size(), std::uint8_t{0});
  std::fill_n(cache.values.mutable_as<std::uint8_t>(), cache.values.size(), std::uint8_t{0});
  const Matrix q(dtype(), 3, kWidth, 1), k(dtype(), 3, kWidth, 2), v(dtype(), 3, kWidth, 3), y(dtype(), 3, kWidth);
  const Segment segment{1, 0, 3, 0};
  backend.attend(q.tensor(), k.tensor(), v.tensor(), {&segment, 1}, 1, cache, y.tensor());
  with_dtype(dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const std::vector<float> expected = k.values();
    std::int64_t written = 0;
    for (std::size_t i = 0; i < cache.keys.size() / sizeof(T); ++i) written += to_float(cache.keys.as<T>()[i]) != 0;
    EXPECT_EQ(written, 3 * kWidth);
    for (int row = 0; row < 3; ++row) {
      for (int col = 0; col < kWidth; ++col) {
        const std::int64_t place = cache.offset(1, 1, col / kHeadDim) + row * kHeadDim + col % kHeadDim;
        EXPECT_EQ(to_float(cache.keys.as<T>()[place]), expected[static_cast<std::size_t>(row * kWidth + col)]);
      }
    }
  });
}

INSTANTIATE_TEST_SUITE_P(All, AttentionTest,
                         testing::Combine(testing::ValuesIn(available_targets()), testing::ValuesIn(kComputeDTypes)),
                         [](const auto& info) {
                           return parameter_name(std::get<0>(info.param), std::get<1>(info.param));
                         });

}  // namespace
}  // namespace nibble
