// Products of linear layers: one body over machines, compute dtypes, layouts and shapes, against a plain sum in fp64.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>

#include "kernels/cuda/ways.h"
#include "tests/kernels/int8_rows.h"
#include "tests/kernels/machines.h"

namespace nibble {
namespace {

std::vector<WeightCase> all_weight_cases() {
  std::vector<WeightCase> cases(kWeightCases.begin(), kWeightCases.end());
  cases.insert(cases.end(), kBlocksizeCases.begin(), kBlocksizeCases.end());
  cases.push_back({"int8-codes", every_int8_code<Int8Row>});
  cases.push_back({"int8-decomp-codes", every_int8_code<Int8Decomp>});
  return cases;
}

/// A result in fp64, and what a machine's may differ by.
struct Expected {
  double value, bound;
};

/// A weight's values in fp32, and what those that a machine multiplies by may differ from them by; and that of a number
/// of x, beside the largest of its row.
struct Factors {
  std::vector<float> values;
  std::vector<double> errors;
  double x_error;

  Factors(const Machine& machine, DType dtype, const Weight& weight)
      : values(decoded(weight)), errors(values.size()), x_error(machine.factor_error(dtype, weight, 1)) {
    const double level_error = machine.level_error(dtype, weight);
    std::ranges::transform(values, errors.begin(), [&](float value) {
      return machine.weight_error(dtype, value) + std::fabs(value) * level_error;
    });
  }
};

Expected expected_product(const Machine& machine, DType dtype, std::span<const float> x, std::span<const float> w,
                          std::span<const double> w_errors, double x_error, float bias) {
  double value = bias;
  double magnitude = std::fabs(bias);
  double factors = 0;
  float largest = 0;
  for (const float factor : x) largest = std::max(largest, std::fabs(factor));
  for (std::size_t i = 0; i < w.size(); ++i) {
    const double product = static_cast<double>(x[i]) * static_cast<double>(w[i]);
    value += product;
    magnitude += std::fabs(product);
    factors += std::fabs(x[i]) * w_errors[i] + std::fabs(w[i]) * largest * x_error;
  }
  const double sum = magnitude * machine.sum_error(w.size());
  return {value, sum + factors + 2 * rounding(dtype, value)};
}

/// What x w^T + bias should be: every element of small products; of large ones a sample, spread over rows and columns.
class ExpectedProduct {
 public:
  ExpectedProduct(const Machine& machine, DType dtype, const std::vector<float>& x, const Factors& w,
                  const std::vector<float>& bias)
      : n_(bias.size()), step_(1) {
    constexpr std::size_t kMostProducts = std::size_t{1} << 24;
    const std::size_t k = w.values.size() / n_;
    const std::size_t results = x.size() / k * n_;
    step_ = results * k / kMostProducts + 1;
    while (std::gcd(step_, n_) != 1) ++step_;
    for (std::size_t i = 0; i < results; i += step_) {
      const std::size_t row = i / n_, column = i % n_;
      expected_.push_back(expected_product(machine, dtype, std::span(x).subspan(row * k, k),
                                           std::span(w.values).subspan(column * k, k),
                                           std::span(w.errors).subspan(column * k, k), w.x_error, bias[column]));
    }
  }

  void expect_near(const Matrix& y) const {
    const std::vector<float> found = y.values();
    for (std::size_t i = 0; i < expected_.size(); ++i) {
      const std::size_t place = i * step_;
      ASSERT_NEAR(found[place], expected_[i].value, expected_[i].bound)
          << "y[" << place / n_ << ", " << place % n_ << "]";
    }
  }

 private:
  std::size_t n_, step_;
  std::vector<Expected> expected_;
};

class LinearTest : public LayoutVerbTest {
 protected:
  /// Rows of x times an [n, k] weight, by `linear` and as batches of one segment, of single rows, and of both.
  void expect_products(Backend& backend, int n, int k, std::initializer_list<int> row_counts) {
    const Weight weight = weight_case().make(n, k, static_cast<std::uint32_t>(n * k));
    const Factors w(machine(), dtype(), weight);
    const Matrix bias(backend, dtype(), 1, n, 3);
    const Linear linear{backend.prepare(weight), bias.buffer()};
    for (const int m : row_counts) {
      SCOPED_TRACE(testing::Message() << "m " << m << " n " << n << " k " << k);
      const Matrix x(backend, dtype(), m, k, 1);
      const ExpectedProduct expected(machine(), dtype(), as_multiplied(weight, x.values()), w, bias.values());
      const Matrix y(backend, dtype(), m, n);
      backend.linear(linear, x.tensor(), y.tensor());
      ASSERT_NO_FATAL_FAILURE(expected.expect_near(y)) << "linear";
      std::vector<int> single_rows(index(m), 1);
      std::vector<int> mixed(index(m - m / 2), 1);
      if (m / 2 > 0) mixed.push_back(m / 2);
      for (const std::vector<int>& lengths : {std::vector{m}, single_rows, mixed}) {
        const Matrix projected(backend, dtype(), m, n);
        begin(backend, segments_of(lengths));
        project(backend, x.tensor(), {linear, projected.tensor()});
        ASSERT_NO_FATAL_FAILURE(expected.expect_near(projected)) << lengths.size() << " segments";
      }
    }
  }
};

struct Shape {
  int m, n, k;
};

// Few rows and many; columns and depths that fit no tile, and some that fit; blocks that span rows; a depth below a
// register, and one of a whole block of the largest size.
constexpr Shape kShapes[] = {
    {1, 1, 1},     {1, 33, 7},    {2, 31, 15},    {3, 64, 32},    {4, 37, 100},   {5, 70, 96},
    {7, 129, 65},  {1, 96, 256},  {2, 40, 320},   {3, 50, 160},   {4, 33, 224},   {6, 35, 288},
    {8, 48, 64},   {9, 80, 128},  {10, 32, 384},  {11, 16, 512},  {12, 17, 256},  {13, 48, 200},
    {14, 20, 128}, {15, 64, 192}, {16, 112, 320}, {17, 65, 130},  {31, 34, 192},  {32, 64, 64},
    {33, 95, 352}, {64, 48, 33},  {2, 16, 4096},  {100, 66, 416}, {512, 48, 128},
};

TEST_P(LinearTest, MatchesAPlainSumForAnyShape) {
  const auto backend = machine().backend(2);
  for (const auto [m, n, k] : kShapes) ASSERT_NO_FATAL_FAILURE(expect_products(*backend, n, k, {m}));
}

TEST_P(LinearTest, MatchesAPlainSumForTheShapesOfModels) {
  const auto backend = machine().backend(2);
  if (machine().device == Device::kCpu) {  // where the rest would take minutes
    ASSERT_NO_FATAL_FAILURE(expect_products(*backend, 256, 768, {1, 17}));
    return;
  }
  ASSERT_NO_FATAL_FAILURE(expect_products(*backend, 768, 768, {1, 17}));
  ASSERT_NO_FATAL_FAILURE(expect_products(*backend, 3072, 768, {1, 2, 9, 64, 2048}));
  ASSERT_NO_FATAL_FAILURE(expect_products(*backend, 768, 3072, {1, 8, 16, 33, 512}));
  ASSERT_NO_FATAL_FAILURE(expect_products(*backend, 4096, 4096, {1, 16, 100, 512, 2048}));
  // A vocabulary: more rows of w for each multiprocessor than sums of 13 rows of x have room for.
  ASSERT_NO_FATAL_FAILURE(expect_products(*backend, 21136, 448, {1, 13}));
}

// For two to sixteen rows: columns that two, four and eight blocks divide, in eighths and in quarters that do not come
// out even; too many for shared memory; and more rows of w than a block takes at once, which several share what they
// read of x, also whole batches of any layout.
constexpr std::pair<int, int> kFewRowsShapes[] = {{48, 4160},   {80, 8192},   {32, 16384}, {16, 32768},
                                                  {16880, 192}, {8464, 1024}, {17952, 512}};

TEST_P(LinearTest, MatchesAPlainSumForFewRowsOfAnyWidth) {
  if (machine().device == Device::kCpu) return;
  for (const auto& [n, k] : kFewRowsShapes) {
    ASSERT_NO_FATAL_FAILURE(expect_products(*machine().backend(2), n, k, {2, 5, 13}));
  }
}

TEST_P(LinearTest, GivesFewRowsOfAnyWidthTheBitsOfOne) {
  if (machine().device == Device::kCpu) return;
  const auto backend = machine().backend(2);
  for (const auto& [n, k] : kFewRowsShapes) {
    const Linear linear{backend->prepare(weight_case().make(n, k, 7)), {}};
    const Matrix x(*backend, dtype(), 16, k, 8), alone(*backend, dtype(), 16, n), together(*backend, dtype(), 16, n);
    for (int row = 0; row < 16; ++row) backend->linear(linear, x.rows(row, 1), alone.rows(row, 1));
    const std::vector<float> expected = alone.values();
    for (const int m : {2, 7, 8, 9, 16}) {
      backend->linear(linear, x.rows(0, m), together.rows(0, m));
      const std::vector<float> found = together.values();
      ASSERT_TRUE(std::equal(expected.begin(), expected.begin() + std::ptrdiff_t{m} * n, found.begin()))
          << "m " << m << " n " << n << " k " << k;
    }
  }
}

/// Rows of short segments that go together, and in what tiles and parts where four sharers and where eight have the
/// columns.
struct CrowdCase {
  int n, k, rows;
  CrowdTiling of_four, of_eight;
};
// Every division that is chosen in each tile, parts of tiles, clusters that take turns or divide a tile; and columns
// that come out even only in layouts with half as many to a tile. Those of up to five million weights are small: a race
// detector comes to an end with them.
constexpr CrowdCase kSmallCrowds[] = {
    {272, 1024, 17, {1, {4, 4}}, {1, {4, 4}}},   {272, 2048, 17, {1, {4, 4}}, {1, {8, 8}}},
    {1360, 1024, 65, {1, {1, 1}}, {1, {2, 2}}},  {1360, 2048, 65, {2, {4, 4}}, {2, {4, 4}}},
    {4352, 1024, 100, {2, {1, 1}}, {2, {2, 2}}}, {1360, 1536, 65, {1, {2, 2}}, {1, {2, 2}}},
    {544, 4096, 100, {1, {4, 4}}, {2, {8, 8}}},
};
constexpr CrowdCase kLargeCrowds[] = {
    {4080, 1536, 17, {1, {4, 2}}, {1, {4, 2}}},  {8704, 1024, 65, {0, {1, 1}}, {0, {2, 2}}},
    {4080, 4096, 33, {2, {4, 2}}, {2, {4, 2}}},  {2176, 8192, 65, {0, {4, 4}}, {0, {4, 4}}},
    {7888, 8192, 17, {0, {4, 2}}, {0, {4, 2}}},  {2176, 4096, 100, {2, {2, 2}}, {2, {2, 2}}},
    {1088, 16384, 65, {1, {4, 4}}, {0, {8, 8}}}, {4080, 8192, 17, {1, {4, 2}}, {0, {8, 2}}},
    {4352, 8192, 65, {0, {2, 2}}, {0, {2, 2}}},  {17952, 1024, 65, {0, {1, 1}}, {0, {2, 2}}},
    {17952, 1024, 20, {0, {1, 1}}, {1, {2, 2}}},
};

void expect_tiles(std::span<const CrowdCase> crowds) {
  for (const CrowdCase& each : crowds) {
    for (const auto& [sharers, expected] : {std::pair{4, each.of_four}, std::pair{8, each.of_eight}}) {
      const CrowdTiling found = crowd_tiling(1, each.n, each.k, each.rows, sharers);
      EXPECT_EQ(found.tile, expected.tile) << sharers << " sharers, " << each.n << " x " << each.k;
      EXPECT_EQ(found.split.parts, expected.split.parts) << sharers << " sharers, " << each.n << " x " << each.k;
      EXPECT_EQ(found.split.cluster, expected.split.cluster) << sharers << " sharers, " << each.n << " x " << each.k;
    }
  }
}

TEST(Crowd, GoesInTheTilesItIsTestedWith) {
  expect_tiles(kSmallCrowds);
  expect_tiles(kLargeCrowds);
}

class CrowdTest : public LayoutVerbTest {
 protected:
  void expect_the_bits_of_one(std::span<const CrowdCase> crowds) {
    if (machine().device == Device::kCpu) return;
    const auto backend = machine().backend(2);
    for (const CrowdCase& each : crowds) {
      const Linear linear{backend->prepare(weight_case().make(each.n, each.k, 7)), {}};
      const Matrix x(*backend, dtype(), each.rows, each.k, 8);
      const Matrix alone(*backend, dtype(), each.rows, each.n), together(*backend, dtype(), each.rows, each.n);
      for (int row = 0; row < each.rows; ++row) backend->linear(linear, x.rows(row, 1), alone.rows(row, 1));
      backend->linear(linear, x.tensor(), together.tensor());
      EXPECT_EQ(together.values(), alone.values()) << each.rows << " rows, " << each.n << " x " << each.k;
    }
  }
};

TEST_P(CrowdTest, HasTheBitsOfOneWithSmallWeights) { expect_the_bits_of_one(kSmallCrowds); }
TEST_P(CrowdTest, HasTheBitsOfOneWithLargeWeights) { expect_the_bits_of_one(kLargeCrowds); }

/// Rows of x by a weight that the fused way takes, and how: in which of its tiles, columns divided so.
struct FusedCase {
  int n, k, rows, tile;
  Split split;
};
// Whole tiles, a part of one and half a one; every division that is chosen; clusters that take turns.
constexpr FusedCase kSmallFusedCases[] = {
    {16928, 256, 17, 0, {1, 1}}, {16928, 256, 129, 0, {1, 1}}, {272, 256, 17, 1, {1, 1}},
    {352, 1024, 513, 1, {2, 2}}, {272, 768, 17, 1, {3, 3}},    {912, 3072, 129, 1, {4, 2}},
    {272, 1024, 17, 1, {4, 4}},  {272, 1280, 17, 1, {5, 5}},   {272, 1536, 17, 1, {6, 6}},
    {272, 1792, 17, 1, {7, 7}},  {272, 2048, 17, 1, {8, 8}},   {352, 11520, 17, 1, {16, 2}},
    {8720, 256, 65, 2, {1, 1}},  {1232, 1536, 400, 2, {2, 2}}, {672, 1536, 400, 2, {3, 3}},
    {592, 1024, 400, 2, {4, 4}}, {1312, 1792, 129, 2, {5, 5}}, {912, 3328, 129, 2, {6, 6}},
    {672, 4096, 129, 2, {8, 8}}, {16928, 256, 65, 2, {1, 1}},  {5680, 512, 384, 3, {1, 1}},
};
constexpr FusedCase kLargeFusedCases[] = {
    {8720, 2048, 17, 0, {3, 3}},   {5680, 4352, 17, 0, {4, 4}},   {5072, 2560, 17, 0, {5, 5}},
    {5072, 7936, 17, 0, {6, 2}},   {4160, 6400, 17, 0, {6, 6}},   {2944, 8448, 17, 0, {8, 8}},
    {2336, 9472, 17, 1, {6, 2}},   {912, 10496, 65, 1, {8, 2}},   {592, 14848, 65, 1, {12, 2}},
    {672, 12544, 17, 1, {14, 2}},  {33952, 256, 17, 1, {1, 1}},   {1952, 4608, 129, 2, {4, 2}},
    {1072, 13568, 129, 2, {6, 2}}, {1072, 19968, 65, 2, {14, 2}}, {11456, 512, 129, 3, {1, 1}},
    {1552, 8192, 257, 3, {4, 4}},  {2336, 4096, 400, 3, {2, 2}},  {2944, 8192, 129, 3, {4, 4}},
    {10240, 768, 600, 3, {1, 1}},  {1232, 4864, 400, 3, {4, 4}},  {3552, 6144, 257, 3, {2, 2}},
};

void expect_tiles(std::span<const FusedCase> cases) {
  for (const auto& [n, k, rows, tile, split] : cases) {
    const Split found = fused_split(1, n, k, length_of(rows));
    EXPECT_EQ(found.parts, split.parts) << n << " x " << k << " with " << rows << " rows";
    EXPECT_EQ(found.cluster, split.cluster) << n << " x " << k << " with " << rows << " rows";
    EXPECT_EQ(fused_tiling(1, n, k, rows, split).tile, tile) << n << " x " << k << " with " << rows << " rows";
  }
}

TEST(FusedWay, TakesWhatItIsTestedWith) {
  expect_tiles(kSmallFusedCases);
  expect_tiles(kLargeFusedCases);
}

class FusedWayTest : public LinearTest {
 protected:
  void expect_products_of(std::span<const FusedCase> cases) {
    if (machine().device == Device::kCpu) return;
    for (const FusedCase& each : cases) {
      ASSERT_NO_FATAL_FAILURE(expect_products(*machine().backend(2), each.n, each.k, {each.rows}));
    }
  }
};

TEST_P(FusedWayTest, MatchesAPlainSumWithSmallWeights) { expect_products_of(kSmallFusedCases); }
TEST_P(FusedWayTest, MatchesAPlainSumWithLargeWeights) { expect_products_of(kLargeFusedCases); }

TEST_P(LinearTest, GivesARowTheSameBitsAloneAndInAnyBatch) {
  constexpr int kMost = 300;
  for (const auto& [n, k] : {std::pair{71, 45}, std::pair{71, 160}, std::pair{80, 128}}) {
    const auto one = machine().backend(1);
    const Weight weight = weight_case().make(n, k, 5);
    const std::vector<float> values = random_values(index(kMost) * index(k), 6);
    const Linear linear{one->prepare(weight), {}};
    const Matrix x(*one, dtype(), kMost, k, values);
    const Matrix alone(*one, dtype(), kMost, n);
    for (int row = 0; row < kMost; ++row) one->linear(linear, x.rows(row, 1), alone.rows(row, 1));
    const std::vector<float> expected = alone.values();
    for (const int threads : {1, 3, 8}) {
      const auto backend = machine().backend(threads);
      const Linear same{backend->prepare(weight), {}};
      const Matrix same_x(*backend, dtype(), kMost, k, values);
      std::vector<int> row_counts(17);
      std::iota(row_counts.begin(), row_counts.end(), 1);
      row_counts.insert(row_counts.end(), {31, 32, 33, 64, 100, kMost});
      for (const int m : row_counts) {
        const Matrix y(*backend, dtype(), m, n);
        backend->linear(same, same_x.rows(0, m), y.tensor());
        const std::vector<float> found = y.values();
        ASSERT_TRUE(std::equal(found.begin(), found.end(), expected.begin())) << "m " << m << " threads " << threads;
      }
    }
  }
}

TEST_P(LinearTest, GivesASegmentTheSameBitsAloneAndBesideOthers) {
  const auto backend = machine().backend(2);
  for (const auto& [n, k] : {std::pair{71, 45}, std::pair{80, 128}, std::pair{2064, 2048}}) {
    if (n > 2000 && machine().device == Device::kCpu) continue;
    const Linear linear{backend->prepare(weight_case().make(n, k, 7)), {}};
    const std::vector<Segment> segments = segments_of({1, 40, 3, 17, 1, 130, 16});
    const int rows = segments.back().first_row + segments.back().rows;
    const Matrix x(*backend, dtype(), rows, k, 8);
    const Matrix alone(*backend, dtype(), rows, n), together(*backend, dtype(), rows, n),
        again(*backend, dtype(), rows, n);
    for (const Segment& segment : segments) {
      begin(*backend, {segment.rows});
      project(*backend, x.rows(segment.first_row, segment.rows), {linear, alone.rows(segment.first_row, segment.rows)});
    }
    begin(*backend, segments);
    project(*backend, x.tensor(), {linear, together.tensor()});
    project(*backend, x.tensor(), {linear, again.tensor()});
    EXPECT_EQ(together.values(), alone.values());
    EXPECT_EQ(again.values(), together.values());
  }
}

TEST_P(LinearTest, GivesASegmentTheSameBitsWithAnyNumberOfThreads) {
  if (machine().device == Device::kCuda) return;
  // Several blocks of columns and a part of one, more rows of w than a task has, more rows of x than a turn.
  constexpr int kN = 150, kK = 650;
  const std::vector<Segment> segments = segments_of({270, 1, 33});
  const int rows = segments.back().first_row + segments.back().rows;
  const Weight weight = weight_case().make(kN, kK, 7);
  const std::vector<float> values = random_values(index(rows) * index(kK), 8);
  const auto results = [&](int threads) {
    const auto backend = machine().backend(threads);
    const Linear linear{backend->prepare(weight), {}};
    const Matrix x(*backend, dtype(), rows, kK, values), y(*backend, dtype(), rows, kN);
    begin(*backend, segments);
    project(*backend, x.tensor(), {linear, y.tensor()});
    return y.values();
  };
  const std::vector<float> expected = results(1);
  for (const int threads : {3, 8}) EXPECT_EQ(results(threads), expected) << threads << " threads";
}

TEST_P(LinearTest, KeepsNotANumberInItsRow) {
  if (machine().device == Device::kCuda) return;
  constexpr int kRows = 40, kOdd = 7, kN = 37, kK = 320;
  const auto backend = machine().backend(2);
  const Linear linear{backend->prepare(weight_case().make(kN, kK, 7)), {}};
  const Matrix x(*backend, dtype(), kRows, kK, 8), y(*backend, dtype(), kRows, kN), odd_y(*backend, dtype(), kRows, kN);
  std::vector<float> values = x.values();
  values[index(kOdd * kK + 300)] = std::numeric_limits<float>::quiet_NaN();
  const Matrix odd_x(*backend, dtype(), kRows, kK, values);
  for (const std::vector<int>& lengths : {std::vector{kRows}, std::vector(index(kRows), 1)}) {
    begin(*backend, segments_of(lengths));
    project(*backend, x.tensor(), {linear, y.tensor()});
    project(*backend, odd_x.tensor(), {linear, odd_y.tensor()});
    const std::vector<float> expected = y.values(), found = odd_y.values();
    for (std::size_t i = 0; i < found.size(); ++i) {
      if (i / index(kN) == index(kOdd)) {
        EXPECT_TRUE(std::isnan(found[i])) << i;
      } else {
        EXPECT_EQ(found[i], expected[i]) << i;
      }
    }
  }
}

TEST_P(LinearTest, ProjectsShortSegmentsAsLinearDoes) {
  const auto backend = machine().backend(2);
  for (const auto& [n, k] : {std::pair{71, 45}, std::pair{80, 128}}) {
    const Linear linear{backend->prepare(weight_case().make(n, k, 7)), {}};
    const Matrix x(*backend, dtype(), 5, k, 8), y(*backend, dtype(), 5, n), projected(*backend, dtype(), 5, n);
    backend->linear(linear, x.tensor(), y.tensor());
    begin(*backend, {1, 1, 1, 1, 1});
    project(*backend, x.tensor(), {linear, projected.tensor()});
    EXPECT_EQ(projected.values(), y.values());
  }
}

TEST_P(LinearTest, DecodesTheWeightItself) {
  // Unit vectors pick single weights; each must be the decoded value, rounded to the compute dtype. A machine that
  // rounds factors or levels rounds twice, and one that multiplies by scales afterwards may do so in another order.
  const auto backend = machine().backend(1);
  for (const auto& shape : {std::pair{20, 37}, std::pair{20, 96}, std::pair{32, 128}}) {
    const int n = shape.first, k = shape.second;  // clang 14 captures no structured bindings
    const Weight weight = weight_case().make(n, k, 11);
    const std::vector<float> w = decoded(weight);
    const Linear linear{backend->prepare(weight), {}};
    std::vector<float> identity(index(k) * index(k));
    for (int i = 0; i < k; ++i) identity[index(i * k + i)] = 1.0F;
    const Matrix units(*backend, dtype(), k, k, identity);
    const auto expect_weights = [&](const Matrix& y) {
      const std::vector<float> found = y.values();
      for (int i = 0; i < y.tensor().rows; ++i) {
        for (int row = 0; row < n; ++row) {
          const float value = w[index(row * k + i)];
          const bool exact = machine().device == Device::kCpu && machine().weight_error(dtype(), value) == 0 &&
                             machine().level_error(dtype(), weight) == 0 && !std::holds_alternative<Int8Decomp>(weight);
          const double slack = exact ? 0 : 4 * rounding(dtype(), value);
          const float expected =
              with_dtype(dtype(), [&](auto tag) { return rounded<typename decltype(tag)::type>(value); });
          ASSERT_NEAR(found[index(i * n + row)], expected, slack) << "w[" << row << ", " << i << "] of k " << k;
        }
      }
    };
    for (const int m : {1, k}) {
      const Matrix y(*backend, dtype(), m, n);
      backend->linear(linear, units.rows(0, m), y.tensor());
      ASSERT_NO_FATAL_FAILURE(expect_weights(y)) << "linear";
      const Matrix projected(*backend, dtype(), m, n);
      begin(*backend, {m});
      project(*backend, units.rows(0, m), {linear, projected.tensor()});
      ASSERT_NO_FATAL_FAILURE(expect_weights(projected)) << "project";
    }
  }
}

TEST_P(LinearTest, EmbedsRows) {
  const auto backend = machine().backend(2);
  for (const int width : {75, 128}) {
    const Weight weight = weight_case().make(30, width, 12);
    const std::vector<float> values = decoded(weight);
    const Weight table = backend->prepare(weight);
    const std::vector<int> tokens = {29, 0, 7, 7}, positions = {27, 0, 3, 1};
    const std::vector<Segment> segments = {{0, 0, 1, 27}, {1, 1, 1, 0}, {2, 2, 1, 3}, {3, 3, 1, 1}};
    constexpr int kOffset = 2;
    const Matrix y(*backend, dtype(), 4, width);
    backend->begin({tokens, positions, segments});
    backend->embed(table, y.tensor());
    const std::vector<float> embedded = y.values();
    backend->add_positions(table, kOffset, y.tensor());
    const std::vector<float> sum = y.values();
    with_dtype(dtype(), [&](auto tag) {
      using T = typename decltype(tag)::type;
      const auto at = [&](int row, std::size_t col) { return rounded<T>(values[index(row) * index(width) + col]); };
      for (std::size_t i = 0; i < sum.size(); ++i) {
        const std::size_t row = i / index(width), col = i % index(width);
        const float token = at(tokens[row], col);
        ASSERT_EQ(embedded[i], token) << i;
        ASSERT_EQ(sum[i], rounded<T>(token + at(positions[row] + kOffset, col))) << i;
      }
    });
  }
}

INSTANTIATE_TEST_SUITE_P(All, LinearTest, machines_dtypes_and(all_weight_cases()), layout_verb_test_name);
INSTANTIATE_TEST_SUITE_P(All, CrowdTest, machines_dtypes_and(all_weight_cases()), layout_verb_test_name);
INSTANTIATE_TEST_SUITE_P(All, FusedWayTest, machines_dtypes_and(all_weight_cases()), layout_verb_test_name);

}  // namespace
}  // namespace nibble
