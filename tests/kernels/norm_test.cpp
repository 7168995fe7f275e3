// LayerNorm against fp64, on every instruction set and compute dtype.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/kernels/matrix.h"

namespace nibble {
namespace {

using Parameters = std::tuple<CpuTarget, DType>;

class LayerNormTest : public testing::TestWithParam<Parameters> {
 protected:
  CpuTarget target() const { return std::get<0>(GetParam()); }
  DType dtype() const { return std::get<1>(GetParam()); }
};

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

/// The mean's error, relative to the largest value, is magnified by the division; everything else is a few roundings.
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
    for (std::size_t i = 0; i < cols; ++i) {
      const double factor = weight.empty() ? 1.0 : std::fabs(weight[i]);
      const double bound = epsilon(y.tensor().dtype) * std::fabs(expected[i]) +
                           0x1p-24 * (factor * magnified * 16 + 4 * std::fabs(expected[i]) + 1e-3) + 0x1p-25;
      ASSERT_NEAR(after[first + i], expected[i], bound) << "column " << i << " of " << cols;
    }
  }
}

TEST_P(LayerNormTest, MatchesTheFormulaWithAndWithoutParameters) {
  CpuBackend backend(2, target());
  for (const int cols : {1, 2, 15, 16, 17, 64, 100, 768, 1000}) {
    const Matrix weight(dtype(), 1, cols, 1);
    const Matrix bias(dtype(), 1, cols, 2);
    const Matrix x(dtype(), 5, cols, 3);
    const Matrix y(dtype(), 5, cols);
    backend.layer_norm({{}, {}, cols}, x.tensor(), y.tensor());
    expect_normalised(x, y, {}, {});
    backend.layer_norm({weight.buffer(), {}, cols}, x.tensor(), y.tensor());
    expect_normalised(x, y, weight.values(), {});
    backend.layer_norm({weight.buffer(), bias.buffer(), cols}, x.tensor(), y.tensor());
    expect_normalised(x, y, weight.values(), bias.values());
  }
}

TEST_P(LayerNormTest, KeepsItsPrecisionFarFromZero) {
  CpuBackend backend(1, target());
  std::vector<float> values = random_values(256, 4);
  for (float& value : values) value += 100.0F;
  const Matrix x(dtype(), 1, 256, values);
  const Matrix y(dtype(), 1, 256);
  backend.layer_norm({{}, {}, 256}, x.tensor(), y.tensor());
  expect_normalised(x, y, {}, {});
}

TEST_P(LayerNormTest, WorksInPlace) {
  CpuBackend backend(2, target());
  const Matrix x(dtype(), 9, 83, 5);
  const Matrix y(dtype(), 9, 83);
  backend.layer_norm({{}, {}, 83}, x.tensor(), y.tensor());
  backend.layer_norm({{}, {}, 83}, x.tensor(), x.tensor());
  EXPECT_EQ(x.values(), y.values());
}

INSTANTIATE_TEST_SUITE_P(All, LayerNormTest,
                         testing::Combine(testing::ValuesIn(available_targets()), testing::ValuesIn(kComputeDTypes)),
                         [](const auto& info) {
                           return parameter_name(std::get<0>(info.param), std::get<1>(info.param));
                         });

}  // namespace
}  // namespace nibble
