// Attention over a cache against fp64, and its independence of batches, chunks and threads.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "tests/kernels/machines.h"

namespace nibble {
namespace {

/// Queries, keys and values of several sequences, one behind the other.
struct Rows {
  Matrix q, k, v;
  int heads, head_dim;

  Rows(Backend& backend, DType dtype, int rows, int heads, int head_dim)
      : q(backend, dtype, rows, heads * head_dim, 1),
        k(backend, dtype, rows, heads * head_dim, 2),
        v(backend, dtype, rows, heads * head_dim, 3),
        heads(heads),
        head_dim(head_dim) {}
  Rows(Matrix q, Matrix k, Matrix v, int heads, int head_dim)
      : q(std::move(q)), k(std::move(k)), v(std::move(v)), heads(heads), head_dim(head_dim) {}

  int width() const { return heads * head_dim; }

  /// Copies of some rows.
  Rows pick(Backend& backend, std::span<const int> rows) const {
    const auto picked = [&](const Matrix& from) {
      const std::vector<float> values = from.values();
      std::vector<float> result;
      for (const int row : rows) {
        const auto first = values.begin() + static_cast<std::ptrdiff_t>(row) * width();
        result.insert(result.end(), first, first + width());
      }
      return Matrix(backend, from.tensor().dtype, static_cast<int>(rows.size()), width(), result);
    };
    return {picked(q), picked(k), picked(v), heads, head_dim};
  }

  /// Attends rows [first, first + count) as these segments.
  void attend(Backend& backend, std::span<const Segment> segments, int first, int count, int layer, KvCache& cache,
              Tensor y) const {
    begin(backend, segments);
    backend.attend(q.rows(first, count), k.rows(first, count), v.rows(first, count), layer, cache, y);
  }
};

class AttentionTest : public VerbTest {
 protected:
  struct Query {
    int row;        ///< of the results
    int q_row;      ///< of `rows`
    int first_key;  ///< of `rows`; it sees the keys from there up to its own
  };

  /// Every head of some queries, in fp64.
  void expect_attended(const Rows& rows, const Matrix& y, std::span<const Query> queries) const {
    const std::vector<float> qs = rows.q.values(), ks = rows.k.values(), vs = rows.v.values(), ys = y.values();
    for (const Query& query : queries) {
      for (int head = 0; head < rows.heads; ++head) {
        const auto at = [&](const std::vector<float>& values, int row, int d) {
          return static_cast<double>(values[static_cast<std::size_t>(row * rows.width() + head * rows.head_dim + d)]);
        };
        std::vector<double> scores;
        double largest = -1e300, score_error = 0;
        for (int key = query.first_key; key <= query.q_row; ++key) {
          double score = 0, magnitude = 0;
          for (int d = 0; d < rows.head_dim; ++d) {
            score += at(qs, query.q_row, d) * at(ks, key, d);
            magnitude += std::fabs(at(qs, query.q_row, d) * at(ks, key, d));
          }
          scores.push_back(score);
          largest = std::max(largest, score);
          score_error = std::max(score_error, magnitude * machine().sum_error(static_cast<std::size_t>(rows.head_dim)) +
                                                  magnitude * machine().pair_error(dtype()));
        }
        double sum = 0;
        for (double& score : scores) sum += score = std::exp(score - largest);
        for (int d = 0; d < rows.head_dim; ++d) {
          double value = 0, magnitude = 0, probabilities = 0;
          for (std::size_t i = 0; i < scores.size(); ++i) {
            const double probability = scores[i] / sum;
            const double v = at(vs, query.first_key + static_cast<int>(i), d);
            value += probability * v;
            magnitude += std::fabs(probability * v);
            probabilities += std::fabs(v) * machine().probability_error(dtype(), probability);
          }
          const double additions = static_cast<double>(scores.size()) + 16;
          const double bound = magnitude * (2 * score_error + additions * 0x1p-23) + probabilities +
                               std::fabs(value) * epsilon(dtype()) + 0x1p-24;
          ASSERT_NEAR(at(ys, query.row, d), value, bound)
              << "row " << query.q_row << " head " << head << " of size " << rows.head_dim << " dim " << d;
        }
      }
    }
  }
};

constexpr int kHeadDims[] = {1, 8, 16, 20, 64, 80, 96, 128, 130};

TEST_P(AttentionTest, MatchesTheFormulaForAnyHeadSize) {
  const auto backend = machine().backend(2);
  for (const int head_dim : kHeadDims) {
    for (const int count : {1, 5, 37, 130}) {
      const Rows rows(*backend, dtype(), count, 3, head_dim);
      const Matrix y(*backend, dtype(), count, rows.width());
      KvCache cache = make_cache(*backend, dtype(), 2, 1, 3, count + 3, head_dim);
      rows.attend(*backend, segments_of({count}), 0, count, 1, cache, y.tensor());
      std::vector<Query> queries;
      for (const int row : {0, 1, 15, 16, 17, 36, 64, 127, 129}) {
        if (row < count) queries.push_back({row, row, 0});
      }
      ASSERT_NO_FATAL_FAILURE(expect_attended(rows, y, queries)) << count << " rows";
    }
  }
}

TEST_P(AttentionTest, MatchesTheFormulaForOneTokenAfterAnyPast) {
  const auto backend = machine().backend(2);
  std::vector<int> pasts = {0, 1, 15, 16, 63, 64, 127, 200};
  if (machine().device == Device::kCuda) pasts.insert(pasts.end(), {255, 256, 1000, 2047});
  const auto sequences = static_cast<int>(pasts.size());
  const int total = std::accumulate(pasts.begin(), pasts.end(), sequences);
  for (const int head_dim : kHeadDims) {
    const Rows rows(*backend, dtype(), total, 2, head_dim);
    KvCache cache = make_cache(*backend, dtype(), 1, sequences, 2, 2048, head_dim);
    const Matrix read(*backend, dtype(), total, rows.width());
    std::vector<int> last_rows;
    std::vector<Segment> steps;
    std::vector<Query> queries;
    int first = 0;
    for (int i = 0; i < sequences; ++i) {
      const int past = pasts[static_cast<std::size_t>(i)];
      const Segment before{i, 0, past, 0};
      if (past > 0) rows.attend(*backend, {&before, 1}, first, past, 0, cache, read.rows(first, past));
      last_rows.push_back(first + past);
      steps.push_back({i, i, 1, past});
      queries.push_back({i, first + past, first});
      first += past + 1;
    }
    const Rows last = rows.pick(*backend, last_rows);
    const Matrix y(*backend, dtype(), sequences, rows.width());
    last.attend(*backend, steps, 0, sequences, 0, cache, y.tensor());
    ASSERT_NO_FATAL_FAILURE(expect_attended(rows, y, queries));
  }
}

TEST_P(AttentionTest, MatchesTheFormulaForLongSegmentsAfterAnyPast) {
  // Two sequences go on at once, from other places: their rows come in turns.
  const auto backend = machine().backend(2);
  constexpr int kLength = 300;
  std::vector<int> head_dims = {64};
  if (machine().device == Device::kCuda) head_dims.insert(head_dims.end(), {80, 96, 128});  // each a kernel of its own
  for (const int head_dim : head_dims) {
    for (const std::vector<int>& ends : {std::vector{63, 129, 300}, std::vector{64, 192, 300}, std::vector{150, 300}}) {
      const Rows rows(*backend, dtype(), 2 * kLength, 2, head_dim);
      KvCache cache = make_cache(*backend, dtype(), 1, 2, 2, kLength + 1, head_dim);
      int past = 0;
      for (const int end : ends) {
        const int count = end - past;
        std::vector<int> picked;
        for (const int sequence : {0, 1}) {
          for (int row = past; row < end; ++row) picked.push_back(sequence * kLength + row);
        }
        const Rows part = rows.pick(*backend, picked);
        const Matrix y(*backend, dtype(), 2 * count, rows.width());
        part.attend(*backend, std::array{Segment{0, 0, count, past}, Segment{1, count, count, past}}, 0, 2 * count, 0,
                    cache, y.tensor());
        std::vector<Query> queries;
        for (const int row : {0, 1, 47, 63, 64, 65, count - 1}) {
          if (row >= count) continue;
          queries.push_back({row, past + row, 0});
          queries.push_back({count + row, kLength + past + row, kLength});
        }
        ASSERT_NO_FATAL_FAILURE(expect_attended(rows, y, queries)) << "rows " << past << " to " << end;
        past = end;
      }
    }
  }
}

constexpr int kHeads = 2;
constexpr int kLengths[] = {40, 7, 23};
constexpr int kRows = 70;

TEST_P(AttentionTest, GivesASequenceTheSameBitsAloneAndInABatch) {
  for (const int head_dim : {24, 64}) {
    const int width = kHeads * head_dim;
    // What a sequence has read, then two tokens one at a time; the rows of all sequences stand behind one another.
    const auto one = machine().backend(1);
    const Matrix alone(*one, dtype(), kRows, width), alone_steps(*one, dtype(), 6, width);
    const Rows rows(*one, dtype(), kRows, kHeads, head_dim), steps(*one, dtype(), 6, kHeads, head_dim);
    int first = 0;
    for (int i = 0; i < 3; ++i) {
      const int length = kLengths[i];
      KvCache cache = make_cache(*one, dtype(), 1, 1, kHeads, 64, head_dim);
      rows.attend(*one, segments_of({length}), first, length, 0, cache, alone.rows(first, length));
      for (int step = 0; step < 2; ++step) {
        const Segment segment{0, 0, 1, length + step};
        steps.attend(*one, {&segment, 1}, 3 * step + i, 1, 0, cache, alone_steps.rows(3 * step + i, 1));
      }
      first += length;
    }

    for (const int threads : {1, 2, 5}) {
      const auto backend = machine().backend(threads);
      const Rows same(*backend, dtype(), kRows, kHeads, head_dim), same_steps(*backend, dtype(), 6, kHeads, head_dim);
      const Matrix y(*backend, dtype(), kRows, width), y_steps(*backend, dtype(), 6, width);
      KvCache cache = make_cache(*backend, dtype(), 1, 4, kHeads, 64, head_dim);
      same.attend(*backend, std::array{Segment{2, 0, 40, 0}, Segment{0, 40, 7, 0}, Segment{1, 47, 23, 0}}, 0, kRows, 0,
                  cache, y.tensor());
      for (int step = 0; step < 2; ++step) {
        same_steps.attend(
            *backend, std::array{Segment{2, 0, 1, 40 + step}, Segment{0, 1, 1, 7 + step}, Segment{1, 2, 1, 23 + step}},
            3 * step, 3, 0, cache, y_steps.rows(3 * step, 3));
      }
      EXPECT_EQ(y.values(), alone.values()) << "threads " << threads;
      EXPECT_EQ(y_steps.values(), alone_steps.values()) << "threads " << threads;
    }
  }
}

TEST_P(AttentionTest, GivesASingleRowTheSameBitsBesideLongerSegments) {
  constexpr int kPast = 300, kBeside = 9;
  for (const int head_dim : {24, 64, 128}) {
    const auto backend = machine().backend(2);
    const Rows past(*backend, dtype(), kPast, kHeads, head_dim), rows(*backend, dtype(), 1 + kBeside, kHeads, head_dim);
    const Matrix read(*backend, dtype(), kPast, rows.width()), y(*backend, dtype(), 1 + kBeside, rows.width());
    const auto single_row = [&](std::span<const Segment> segments, int count) {
      KvCache cache = make_cache(*backend, dtype(), 1, 2, kHeads, kPast + 1, head_dim);
      past.attend(*backend, segments_of({kPast}), 0, kPast, 0, cache, read.tensor());
      rows.attend(*backend, segments, 0, count, 0, cache, y.rows(0, count));
      std::vector<float> values = y.values();
      values.resize(static_cast<std::size_t>(rows.width()));
      return values;
    };
    const Segment single{0, 0, 1, kPast}, longer{1, 1, kBeside, 0};
    EXPECT_EQ(single_row(std::array{single, longer}, 1 + kBeside), single_row(std::array{single}, 1))
        << "heads of " << head_dim;
  }
}

TEST_P(AttentionTest, GivesASingleRowTheSameBitsInManySequences) {
  constexpr int kPast = 260, kSequences = 9, kEight = 8;  // more than a GPU holds at once, in eight parts a head
  for (const int head_dim : {64, 128}) {
    const auto backend = machine().backend(2);
    const Rows past(*backend, dtype(), kPast, kEight, head_dim);
    const Rows rows = Rows(*backend, dtype(), 1, kEight, head_dim).pick(*backend, std::vector<int>(kSequences, 0));
    const Matrix read(*backend, dtype(), kPast, rows.width()), y(*backend, dtype(), kSequences, rows.width());
    KvCache cache = make_cache(*backend, dtype(), 1, kSequences, kEight, kPast + 1, head_dim);
    std::vector<Segment> singles;
    for (int i = 0; i < kSequences; ++i) {
      const Segment segment{i, 0, kPast, 0};
      past.attend(*backend, {&segment, 1}, 0, kPast, 0, cache, read.tensor());
      singles.push_back({i, i, 1, kPast});
    }
    rows.attend(*backend, {singles.data(), 1}, 0, 1, 0, cache, y.rows(0, 1));
    std::vector<float> alone = y.values();
    alone.resize(static_cast<std::size_t>(rows.width()));
    rows.attend(*backend, singles, 0, kSequences, 0, cache, y.tensor());
    const std::vector<float> together = y.values();
    for (int i = 0; i < kSequences; ++i) {
      const auto first = together.begin() + static_cast<std::ptrdiff_t>(i) * rows.width();
      EXPECT_EQ(std::vector<float>(first, first + rows.width()), alone) << "sequence " << i;
    }
  }
}

TEST_P(AttentionTest, GivesASequenceTheSameInChunksAndTokenByToken) {
  for (const int head_dim : {24, 64, 80, 128}) {
    const auto backend = machine().backend(2);
    constexpr int kLength = 70;
    const Rows rows(*backend, dtype(), kLength, kHeads, head_dim);
    std::vector<Query> queries;
    for (int row = 0; row < kLength; ++row) queries.push_back({row, row, 0});
    std::vector<std::vector<float>> results;
    for (const std::vector<int>& chunks :
         {std::vector{kLength}, std::vector{17, 3, 50}, std::vector{30, 1, 39}, std::vector(kLength, 1)}) {
      const Matrix y(*backend, dtype(), kLength, rows.width());
      KvCache cache = make_cache(*backend, dtype(), 1, 1, kHeads, 96, head_dim);
      int past = 0;
      for (const int chunk : chunks) {
        const Segment segment{0, 0, chunk, past};
        rows.attend(*backend, {&segment, 1}, past, chunk, 0, cache, y.rows(past, chunk));
        past += chunk;
      }
      ASSERT_NO_FATAL_FAILURE(expect_attended(rows, y, queries)) << chunks.size() << " chunks";
      results.push_back(y.values());
    }
    // With tiles there is one way to attend for single tokens and one for many: they add up in another order, and both
    // are within the bounds. Otherwise there is one way.
    if (machine().attends_in_tiles(dtype())) continue;
    for (const std::vector<float>& result : results) EXPECT_EQ(result, results.front());
  }
}

TEST_P(AttentionTest, SurvivesScoresFarApart) {
  // One key wins by hundreds: its value comes out exactly, and nothing overflows, however large the others' are.
  const auto backend = machine().backend(1);
  std::vector<float> keys(32 * 16, -4.0F), values(32 * 16, dtype() == DType::kF16 ? 6e4F : 1e36F);
  std::fill(keys.begin() + 5 * 16, keys.begin() + 6 * 16, 4.0F);
  std::ranges::copy(random_values(16, 8), values.begin() + 5 * 16);
  const Rows rows(Matrix(*backend, dtype(), 32, 16, std::vector<float>(32 * 16, 8.0F)),
                  Matrix(*backend, dtype(), 32, 16, keys), Matrix(*backend, dtype(), 32, 16, values), 1, 16);
  for (const std::vector<int>& chunks : {std::vector{32}, std::vector{31, 1}}) {
    const Matrix y(*backend, dtype(), 32, 16);
    KvCache cache = make_cache(*backend, dtype(), 1, 1, 1, 32, 16);
    int past = 0;
    for (const int chunk : chunks) {
      const Segment segment{0, 0, chunk, past};
      rows.attend(*backend, {&segment, 1}, past, chunk, 0, cache, y.rows(past, chunk));
      past += chunk;
    }
    const std::vector<float> found = y.values(), expected = rows.v.values();
    EXPECT_TRUE(std::equal(found.begin() + 31 * 16, found.end(), expected.begin() + 5 * 16));
  }
}

TEST_P(AttentionTest, WritesKeysAndValuesOnlyWhereTheyBelong) {
  const auto backend = machine().backend(2);
  for (const auto& rows_and_past : {std::pair{3, 0}, std::pair{1, 5}, std::pair{20, 0}}) {
    const int count = rows_and_past.first, past = rows_and_past.second;  // clang 14 captures no structured bindings
    constexpr int kContext = 24;
    for (const int head_dim : {5, 64}) {
      const Rows rows(*backend, dtype(), count, kHeads, head_dim);
      const Matrix y(*backend, dtype(), count, rows.width());
      KvCache cache = make_cache(*backend, dtype(), 2, 2, kHeads, kContext, head_dim);
      const Segment segment{1, 0, count, past};
      rows.attend(*backend, {&segment, 1}, 0, count, 1, cache, y.tensor());
      const auto expect_written = [&](Buffer& buffer, const Matrix& written) {
        const Tensor view{buffer.mutable_as<void>(), dtype(), 2 * 2 * kHeads * kContext, head_dim};
        std::vector<float> held(static_cast<std::size_t>(view.rows * view.cols));
        backend->copy_to_host(view, held);
        EXPECT_EQ(std::ranges::count_if(held, [](float value) { return !std::isnan(value); }), count * rows.width());
        const std::vector<float> expected = written.values();
        for (int row = 0; row < count; ++row) {
          for (int col = 0; col < rows.width(); ++col) {
            const std::int64_t place = cache.offset(1, 1, col / head_dim) + (past + row) * head_dim + col % head_dim;
            ASSERT_EQ(held[static_cast<std::size_t>(place)],
                      expected[static_cast<std::size_t>(row * rows.width() + col)]);
          }
        }
      };
      expect_written(cache.keys, rows.k);
      expect_written(cache.values, rows.v);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, AttentionTest, machines_and_dtypes(), verb_test_name);

}  // namespace
}  // namespace nibble
