// Linear layers as LLM.int8() multiplies them, on every machine: against its own arithmetic in fp64, with outliers
// where loops and tiles begin and end; and bit for bit against themselves in other batches and with other threads.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/kernels/golden_arrays.h"
#include "tests/kernels/int8_rows.h"
#include "tests/kernels/machines.h"

namespace nibble {
namespace {

/// Rows of x with as many outliers as their number: none in the first, and all in one of them.
std::vector<float> rows_with_outliers(int rows, int k, std::uint32_t seed) {
  std::vector<float> values = random_values(index(rows) * index(k), seed);
  for (int row = 0; row < rows; ++row) {
    const auto of_row = std::span(values).subspan(index(row) * index(k), index(k));
    for (int i = 0; i < std::min(row, k); ++i) of_row[index((i * 37 + row * 64 - i % 2) % k)] *= 40;
    if (row == 5) {
      for (float& value : of_row) value = value < 0 ? value - 6 : value + 6;
    }
  }
  return values;
}

class Int8DecompTest : public VerbTest {
 protected:
  /// A weight's value as outliers meet it.
  double as_outliers_factor(float weight) const {
    return with_dtype(dtype(), [&](auto tag) { return rounded<typename decltype(tag)::type>(weight); });
  }

  /// The parts of a result, and the sums of their terms' magnitudes.
  struct Parts {
    double whole = 0, whole_terms = 0;       ///< of whole numbers
    double outliers = 0, outlier_terms = 0;  ///< of outliers
    std::size_t outlier_count = 0;
  };

  /// Of a row x and its elements in whole numbers.
  Parts parts_of(std::span<const float> x, const Int8Elements& elements, const Int8Decomp& weight, int column) const {
    const auto view = weight.view();
    std::int64_t sum = 0, magnitudes = 0;
    for (int i = 0; i < view.k; ++i) {
      const int product = elements.codes[index(i)] * view.codes[std::int64_t{column} * view.k + i];
      sum += product;
      magnitudes += std::abs(product);
    }
    const double step = static_cast<double>(elements.absmax) * static_cast<double>(view.scb[column]) / (127 * 127);
    Parts parts{static_cast<double>(sum) * step, static_cast<double>(magnitudes) * step};
    for (const std::size_t i : elements.outliers) {
      const double product = static_cast<double>(x[i]) * as_outliers_factor(view.decode(column, static_cast<int>(i)));
      parts.outliers += product;
      parts.outlier_terms += std::fabs(product);
    }
    parts.outlier_count = elements.outliers.size();
    return parts;
  }
};

TEST_P(Int8DecompTest, IsLlmInt8sArithmetic) {
  const auto backend = machine().backend(2);
  for (const auto& make : {random_int8<Int8Decomp>, every_int8_code<Int8Decomp>}) {
    for (const auto& [rows, n, k] : {std::tuple{1, 5, 7},
                                     {6, 37, 100},
                                     {7, 16, 64},
                                     {9, 33, 320},
                                     {16, 48, 32},
                                     {17, 64, 2080},
                                     {130, 18, 1000},
                                     {70, 160, 96},
                                     {40, 80, 2304},
                                     {8, 5, 2049}}) {
      SCOPED_TRACE(testing::Message() << rows << " x " << n << " x " << k);
      const Weight weight = make(n, k, 3);
      const Matrix x(*backend, dtype(), rows, k, rows_with_outliers(rows, k, 5)), bias(*backend, dtype(), 1, n, 7);
      const Matrix y(*backend, dtype(), rows, n);
      const Linear linear{backend->prepare(weight), bias.buffer()};
      begin(*backend, {rows});
      project(*backend, x.tensor(), {linear, y.tensor()});
      const std::vector<float> given = x.values(), biases = bias.values(), found = y.values();
      for (int row = 0; row < rows; ++row) {
        const auto of_row = std::span(given).subspan(index(row) * index(k), index(k));
        const Int8Elements elements = decomposed(of_row);
        for (int column = 0; column < n; ++column) {
          const Parts parts = parts_of(of_row, elements, std::get<Int8Decomp>(weight), column);
          const auto added = static_cast<double>(biases[index(column)]);
          const double value = parts.whole + parts.outliers + added;
          // Whole numbers are exact. The lanes of a CPU's sums are rounded to fp32 and added, five roundings; three
          // factors and one that is rounded itself make four more.
          const double bound = parts.whole_terms * 9 * 0x1p-24 +
                               parts.outlier_terms * machine().sum_error(parts.outlier_count) +
                               (std::fabs(parts.whole) + std::fabs(parts.outliers) + std::fabs(added)) * 0x1p-23 +
                               2 * rounding(dtype(), value);
          ASSERT_NEAR(found[index(row * n + column)], value, bound) << "y[" << row << ", " << column << "]";
        }
      }
    }
  }
}

TEST_P(Int8DecompTest, IsWhatBitsandbytesComputes) {
  const auto backend = machine().backend(2);
  const Json golden = read_golden("llm_int8.json");
  int compared = 0;
  for (const Json& each : golden["cases"]) {
    if (each["dtype"] != to_string(dtype())) continue;
    ++compared;
    const int k = each["width"], n = each["outputs"];
    SCOPED_TRACE(testing::Message() << "width " << k);
    const Int8Decomp weight{
        Int8Row{copied(array_of<std::int8_t>(each["codes"])), copied(array_of<float>(each["scb"])), n, k}};
    const std::vector<float> given = array_of<float>(each["x"]), wanted = array_of<float>(each["y"]);
    const int rows = static_cast<int>(given.size()) / k;
    const Matrix x(*backend, dtype(), rows, k, given), y(*backend, dtype(), rows, n);
    const Matrix bias(*backend, dtype(), 1, n, array_of<float>(each["bias"]));
    backend->linear({backend->prepare(weight), bias.buffer()}, x.tensor(), y.tensor());
    const std::vector<float> found = y.values(), biases = bias.values();
    for (int row = 0; row < rows; ++row) {
      const auto of_row = std::span(given).subspan(index(row) * index(k), index(k));
      const Int8Elements elements = decomposed(of_row);
      for (int column = 0; column < n; ++column) {
        const Parts parts = parts_of(of_row, elements, weight, column);
        const auto added = static_cast<double>(biases[index(column)]);
        // bitsandbytes rounds whole numbers and bias before outliers are added to them, and on a CPU takes 6.200124e-5
        // for 1/127^2, which is 1.8e-5 too much.
        const double rounded_early = rounding(dtype(), parts.whole + added) + rounding(dtype(), parts.outliers);
        const double bound = std::fabs(parts.whole) * 1.9e-5 + (parts.whole_terms + std::fabs(added)) * 0x1p-20 +
                             parts.outlier_terms * machine().sum_error(parts.outlier_count) + rounded_early +
                             3 * rounding(dtype(), static_cast<double>(wanted[index(row * n + column)]));
        ASSERT_NEAR(found[index(row * n + column)], wanted[index(row * n + column)], bound)
            << "y[" << row << ", " << column << "]";
      }
    }
  }
  EXPECT_EQ(compared, 2);
}

TEST_P(Int8DecompTest, AddsWholeNumbersUpExactly) {
  // With a step of 1/32 in x, 32/127 of 127 in w and all codes whole, y is the sum of products of codes itself.
  if (dtype() != DType::kF32) return;
  const auto backend = machine().backend(2);
  for (const auto& [rows, n, k] : {std::tuple{3, 16, 64}, std::tuple{20, 33, 75}}) {
    Weight weight = every_int8_code<Int8Decomp>(n, k, 11);
    auto& codes = std::get<Int8Decomp>(weight);
    for (int row = 0; row < n; ++row) codes.scb.mutable_as<float>()[row] = 127 * 32;
    std::vector<float> values;
    for (int i = 0; i < rows * k; ++i) values.push_back(static_cast<float>(i % k == 0 ? 127 : i * 59 % 255 - 127) / 32);
    const Matrix x(*backend, dtype(), rows, k, values), y(*backend, dtype(), rows, n);
    backend->linear({backend->prepare(weight), {}}, x.tensor(), y.tensor());
    const std::vector<float> found = y.values();
    for (int row = 0; row < rows; ++row) {
      for (int column = 0; column < n; ++column) {
        std::int64_t sum = 0;
        for (int i = 0; i < k; ++i) {
          sum += static_cast<int>(values[index(row * k + i)] * 32) * codes.codes.as<std::int8_t>()[column * k + i];
        }
        ASSERT_EQ(std::lround(found[index(row * n + column)]), sum) << "y[" << row << ", " << column << "]";
      }
    }
  }
}

TEST_P(Int8DecompTest, DependsOnNeitherBatchNorThreads) {
  constexpr int kRows = 131;
  for (const auto& [n, k] : {std::pair{70, 200}, std::pair{80, 224}}) {
    const Weight weight = random_int8<Int8Decomp>(n, k, 1);
    const std::vector<float> values = rows_with_outliers(kRows, k, 2);
    const auto alone = machine().backend(1);
    const Linear linear{alone->prepare(weight), {}};
    const Matrix x(*alone, dtype(), kRows, k, values), one_by_one(*alone, dtype(), kRows, n);
    for (int row = 0; row < kRows; ++row) alone->linear(linear, x.rows(row, 1), one_by_one.rows(row, 1));
    const std::vector<float> expected = one_by_one.values();
    for (const int threads : {1, 2, 5, 8}) {
      const auto backend = machine().backend(threads);
      const Linear same{backend->prepare(weight), {}};
      const Matrix same_x(*backend, dtype(), kRows, k, values);
      for (const std::vector<int>& lengths : {std::vector{2}, {4}, {7}, {16}, {17}, {kRows}, {1, 40, 3, 17, 1}}) {
        const std::vector<Segment> segments = segments_of(lengths);
        const int rows = segments.back().first_row + segments.back().rows;
        const Matrix y(*backend, dtype(), rows, n);
        begin(*backend, segments);
        project(*backend, same_x.rows(0, rows), {same, y.tensor()});
        const std::vector<float> found = y.values();
        EXPECT_TRUE(std::equal(found.begin(), found.end(), expected.begin())) << threads << " threads, " << rows;
      }
    }
  }
}

TEST_P(Int8DecompTest, KeepsNothingAsNothingAndNotANumberAsThat) {
  const auto backend = machine().backend(1);
  for (const auto& [n, k] : {std::pair{3, 70}, std::pair{16, 64}}) {
    const Linear linear{backend->prepare(random_int8<Int8Decomp>(n, k, 1)), {}};
    for (const float odd : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      std::vector<float> values(index(2 * k), 0.0F);
      values.back() = odd;
      const Matrix x(*backend, dtype(), 2, k, values), y(*backend, dtype(), 2, n);
      backend->linear(linear, x.tensor(), y.tensor());
      for (int i = 0; i < n; ++i) {
        EXPECT_EQ(y.values()[index(i)], 0);
        EXPECT_FALSE(std::isfinite(y.values()[index(n + i)]));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Int8DecompTest, machines_and_dtypes(), verb_test_name);

}  // namespace
}  // namespace nibble
