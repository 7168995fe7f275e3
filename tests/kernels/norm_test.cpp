// LayerNorm against fp64, on every machine and in every compute dtype.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/kernels/machines.h"

namespace nibble {
namespace {

class LayerNormTest : public VerbTest {};

std::vector<double> normalised(std::span<const float> row, std::span<const float> weight, std::span<const float> bias) {
  double mean = 0, variance = 0;
  const auto count = static_cast<double>(row.size());
  for (const float x : row) mean += x / count;
  for (const float x : row) variance += (x - mean) * (x - mean) / count;
  std::vector<double> result;
  for (std::size_t i = 0; i < row.size(); ++i) {
    const double y = (row[i] - mean) / std::sqrt(variance + 1e-5);
    result.push_back(y * (weight.empty() ? 1.0 : weight[i]) + (bias.empty() ? 0.0 : bias[i]));
  }
  return result;
}

/// The mean's error, relative to the largest value, is magnified by the division; sums have at least 16 lanes;
/// everything else is a few roundings.
void expect_normalised(const Matrix& x, const Matrix& y, std::span<const float> weight, std::span<const float> bias) {
  const auto cols = static_cast<std::size_t>(x.tensor().cols);
  const std::vector<float> before = x.values(), after = y.values();
  for (std::size_t first = 0; first < before.size(); first += cols) {
    const auto row = std::span(before).subspan(first, cols);
    const auto expected = normalised(row, weight, bias);
    double largest = 0, deviation = 0, mean = 0;
    for (const float value : row) mean += value / static_cast<double>(cols);
    for (const float value : row) {
      largest = std::max(largest, std::fabs(static_cast<double>(value)));
      deviation += (value - mean) * (value - mean) / static_cast<double>(cols);
    }
    const double magnified = largest / std::sqrt(deviation + 1e-5);
    const double additions = static_cast<double>(cols) / 16 + 16;
    for (std::size_t i = 0; i < cols; ++i) {
      const double factor = weight.empty() ? 1.0 : std::fabs(weight[i]);
      const double bound = epsilon(y.tensor().dtype) * std::fabs(expected[i]) +
                           0x1p-24 * (factor * magnified * additions + 4 * std::fabs(expected[i]) + 1e-3) + 0x1p-25;
      ASSERT_NEAR(after[first + i], expected[i], bound) << "column " << i << " of " << cols;
    }
  }
}

TEST_P(LayerNormTest, MatchesTheFormulaWithAndWithoutParameters) {
  const auto backend = machine().backend(2);
  for (const int cols : {1, 2, 15, 16, 17, 64, 100, 768, 1000, 9216}) {
    const Matrix weight(*backend, dtype(), 1, cols, 1), bias(*backend, dtype(), 1, cols, 2);
    const Matrix x(*backend, dtype(), 5, cols, 3);
    const auto normed = [&](const LayerNorm& norm) {
      Matrix y(*backend, dtype(), 5, cols);
      normalise(*backend, norm, x.tensor(), y.tensor());
      return y;
    };
    expect_normalised(x, normed({{}, {}, cols}), {}, {});
    expect_normalised(x, normed({weight.buffer(), {}, cols}), weight.values(), {});
    expect_normalised(x, normed({{}, bias.buffer(), cols}), {}, bias.values());
    expect_normalised(x, normed({weight.buffer(), bias.buffer(), cols}), weight.values(), bias.values());
  }
}

TEST_P(LayerNormTest, KeepsItsPrecisionFarFromZero) {
  const auto backend = machine().backend(1);
  std::vector<float> values = random_values(256, 4);
  for (float& value : values) value += 100.0F;
  const Matrix x(*backend, dtype(), 1, 256, values), y(*backend, dtype(), 1, 256);
  normalise(*backend, {{}, {}, 256}, x.tensor(), y.tensor());
  expect_normalised(x, y, {}, {});
}

TEST_P(LayerNormTest, GivesARowTheSameBitsAloneAndInAnyBatch) {
  const auto backend = machine().backend(2);
  constexpr int kRows = 70;
  for (const int cols : {83, 128}) {
    const Matrix x(*backend, dtype(), kRows, cols, 5);
    const Matrix alone(*backend, dtype(), kRows, cols), together(*backend, dtype(), kRows, cols);
    for (int row = 0; row < kRows; ++row) normalise(*backend, {{}, {}, cols}, x.rows(row, 1), alone.rows(row, 1));
    normalise(*backend, {{}, {}, cols}, x.tensor(), together.tensor());
    EXPECT_EQ(together.values(), alone.values());
  }
}

INSTANTIATE_TEST_SUITE_P(All, LayerNormTest, machines_and_dtypes(), verb_test_name);

}  // namespace
}  // namespace nibble
