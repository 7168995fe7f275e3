// One body over layouts, compute dtypes, instruction sets and shapes: the fast loops against a plain sum in fp64.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <tuple>

#include "tests/kernels/matrix.h"

namespace nibble {
namespace {

/// Half of the smallest subnormal step, which rounding may add to small numbers.
double smallest(DType dtype) { return dtype == DType::kF16 ? 0x1p-25 : 0x1p-126; }

/// A sum of k products in fp64, and the bound on what fp32 lanes, weights in the compute dtype and the final rounding
/// may differ by: errors grow with the number of additions in a lane, times the sum of magnitudes.
struct Expected {
  double value, bound;
};

Expected expected_product(std::span<const float> x, std::span<const float> w, float bias, DType dtype) {
  double value = bias;
  double magnitude = std::fabs(bias);
  for (std::size_t i = 0; i < w.size(); ++i) {
    const double product = static_cast<double>(x[i]) * static_cast<double>(w[i]);
    value += product;
    magnitude += std::fabs(product);
  }
  const double additions = static_cast<double>(w.size()) / 16 + 8;
  const double weight_rounding = dtype == DType::kBF16 ? epsilon(dtype) : 0;
  return {value, magnitude * (additions * 0x1p-23 + weight_rounding) + std::fabs(value) * 2 * epsilon(dtype) +
                     smallest(dtype)};
}

struct Shape {
  int m, n, k;
};

// Few rows and many; columns and depths that fit no tile; blocks that span rows; a depth below a register.
constexpr Shape kShapes[] = {{1, 1, 1},     {1, 33, 7},    {2, 31, 15},  {3, 64, 32},   {4, 37, 100}, {5, 70, 96},
                             {7, 129, 65},  {1, 96, 256},  {2, 40, 320}, {3, 50, 160},  {4, 33, 224}, {6, 35, 288},
                             {17, 65, 130}, {31, 34, 192}, {32, 64, 64}, {33, 95, 352}, {64, 48, 33}, {100, 66, 416}};

using Parameters = std::tuple<CpuTarget, DType, std::size_t>;

class LinearTest : public testing::TestWithParam<Parameters> {
 protected:
  CpuTarget target() const { return std::get<0>(GetParam()); }
  DType dtype() const { return std::get<1>(GetParam()); }
  const WeightCase& weight_case() const { return kWeightCases[std::get<2>(GetParam())]; }
};

TEST_P(LinearTest, MatchesAPlainSumForAnyShape) {
  CpuBackend backend(2, target());
  for (const auto [m, n, k] : kShapes) {
    const Weight weight = weight_case().make(n, k, static_cast<std::uint32_t>(n * k));
    std::vector<float> w(static_cast<std::size_t>(n) * static_cast<std::size_t>(k));
    decode_all(weight, w);
    const Matrix bias_row(dtype(), 1, n, 3);
    const std::vector<float> bias = bias_row.values();
    const Matrix x(dtype(), m, k, 1);
    const Matrix y(dtype(), m, n);
    backend.linear({weight, bias_row.buffer()}, x.tensor(), y.tensor());
    const std::vector<float> xs = x.values();
    const std::vector<float> ys = y.values();
    for (int row = 0; row < m; ++row) {
      for (int col = 0; col < n; ++col) {
        const auto depth = static_cast<std::size_t>(k);
        const auto [value, bound] =
            expected_product(std::span(xs).subspan(static_cast<std::size_t>(row) * depth, depth),
                             std::span(w).subspan(static_cast<std::size_t>(col) * depth, depth),
                             bias[static_cast<std::size_t>(col)], dtype());
        const float found =
            ys[static_cast<std::size_t>(row) * static_cast<std::size_t>(n) + static_cast<std::size_t>(col)];
        ASSERT_NEAR(found, value, bound) << "y[" << row << ", " << col << "] of m " << m << " n " << n << " k " << k;
      }
    }
  }
}

TEST_P(LinearTest, GivesARowTheSameBitsAloneAndInAnyBatch) {
  constexpr int kN = 71;
  for (const int k : {45, 160}) {
    const Linear linear{weight_case().make(kN, k, 5), {}};
    constexpr int kMost = 300;
    const Matrix x(dtype(), kMost, k, 6);
    const Matrix alone(dtype(), kMost, kN);
    CpuBackend one(1, target());
    for (int row = 0; row < kMost; ++row) one.linear(linear, x.rows(row, 1), alone.rows(row, 1));
    const std::vector<float> expected = alone.values();
    for (const int m : {2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 33, 64, 100, kMost}) {
      for (const int threads : {1, 2, 3, 8}) {
        CpuBackend backend(threads, target());
        const Matrix y(dtype(), m, kN);
        backend.linear(linear, x.rows(0, m), y.tensor());
        const std::vector<float> found = y.values();
        ASSERT_TRUE(std::equal(found.begin(), found.end(), expected.begin())) << "m " << m << " threads " << threads;
      }
    }
  }
}

TEST_P(LinearTest, DecodesTheWeightItself) {
  // Unit vectors pick single weights; each must be the decoded value, rounded to the compute dtype.
  CpuBackend backend(1, target());
  for (const int k : {37, 96}) {
    constexpr int kN = 20;
    const Weight weight = weight_case().make(kN, k, 11);
    std::vector<float> w(static_cast<std::size_t>(kN) * static_cast<std::size_t>(k));
    decode_all(weight, w);
    std::vector<float> identity(static_cast<std::size_t>(k) * static_cast<std::size_t>(k));
    for (int i = 0; i < k; ++i) identity[static_cast<std::size_t>(i * k + i)] = 1.0F;
    with_dtype(dtype(), [&](auto tag) {
      using T = typename decltype(tag)::type;
      Buffer units = buffer_of<T>(identity);
      for (const int m : {1, k}) {
        const Matrix y(dtype(), m, kN);
        backend.linear({weight, {}}, {units.mutable_as<T>(), dtype(), m, k}, y.tensor());
        const std::vector<float> found = y.values();
        for (int i = 0; i < m; ++i) {
          for (int n = 0; n < kN; ++n) {
            ASSERT_EQ(found[static_cast<std::size_t>(i * kN + n)], rounded<T>(w[static_cast<std::size_t>(n * k + i)]))
                << "w[" << n << ", " << i << "] of k " << k;
          }
        }
      }
    });
  }
}

TEST_P(LinearTest, EmbedsRows) {
  CpuBackend backend(2, target());
  const Weight table = weight_case().make(30, 75, 12);
  std::vector<float> values(30 * 75);
  decode_all(table, values);
  const std::vector<int> ids = {29, 0, 7, 7};
  const Matrix y(dtype(), 4, 75);
  backend.embed(table, ids, y.tensor());
  const std::vector<float> once = y.values();
  backend.add_embedding(table, ids, y.tensor());
  const std::vector<float> twice = y.values();
  with_dtype(dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    for (std::size_t i = 0; i < once.size(); ++i) {
      const float value = rounded<T>(values[static_cast<std::size_t>(ids[i / 75]) * 75 + i % 75]);
      ASSERT_EQ(once[i], value) << i;
      ASSERT_EQ(twice[i], rounded<T>(value + value)) << i;
    }
  });
}

std::string case_name(const testing::TestParamInfo<Parameters>& info) {
  const auto& [target, dtype, index] = info.param;
  std::string name = parameter_name(target, dtype) + "_" + std::string(kWeightCases[index].name);
  std::erase(name, '-');
  return name;
}

INSTANTIATE_TEST_SUITE_P(All, LinearTest,
                         testing::Combine(testing::ValuesIn(available_targets()), testing::ValuesIn(kComputeDTypes),
                                          testing::Range(std::size_t{0}, kWeightCases.size())),
                         case_name);

/// The epilogue's steps in fp32, each rounded, on what linear gives without them.
float step_by_step(DType dtype, float value, float scale, float (*activation)(float), float residual) {
  return with_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    return rounded<T>(rounded<T>(activation(rounded<T>(value * scale))) + residual);
  });
}

struct ActivationCase {
  Activation activation;
  float (*reference)(float);
};

const ActivationCase kActivations[] = {
    {Activation::kIdentity, [](float x) { return x; }},
    {Activation::kRelu, [](float x) { return std::max(x, 0.0F); }},
    {Activation::kGelu, [](float x) { return 0.5F * x * (1 + std::erf(x * std::sqrt(0.5F))); }},
    {Activation::kGeluTanh,
     [](float x) {
       return 0.5F * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi_v<float>) * (x + 0.044715F * x * x * x)));
     }},
    {Activation::kSilu, [](float x) { return x / (1 + std::exp(-x)); }},
    {Activation::kQuickGelu, [](float x) { return x / (1 + std::exp(-1.702F * x)); }},
    {Activation::kRelu2, [](float x) { return std::max(x, 0.0F) * std::max(x, 0.0F); }},
    {Activation::kRelu6, [](float x) { return std::clamp(x, 0.0F, 6.0F); }},
};

class EpilogueTest : public testing::TestWithParam<std::tuple<CpuTarget, DType>> {};

TEST_P(EpilogueTest, ScalesActivatesAndAddsRoundingEachTime) {
  const auto [target, dtype] = GetParam();
  CpuBackend backend(2, target);
  constexpr int kM = 6, kN = 53, kK = 40;
  const Matrix bias(dtype, 1, kN, 22);
  const Linear linear{kWeightCases[0].make(kN, kK, 21), bias.buffer()};
  const Matrix x(dtype, kM, kK, 23);
  const Matrix plain(dtype, kM, kN);
  backend.linear(linear, x.tensor(), plain.tensor());
  const std::vector<float> before = plain.values();
  for (const ActivationCase& each : kActivations) {
    const Matrix y(dtype, kM, kN, 24);
    const std::vector<float> residual = y.values();
    backend.linear(linear, x.tensor(), y.tensor(),
                   {.scale = 1.25F, .activation = each.activation, .residual = y.tensor()});
    const std::vector<float> found = y.values();
    for (std::size_t i = 0; i < found.size(); ++i) {
      const float expected = step_by_step(dtype, before[i], 1.25F, each.reference, residual[i]);
      const double slack =
          4 * epsilon(dtype) * (std::fabs(expected) + std::fabs(residual[i]) + 2 * std::fabs(before[i]));
      ASSERT_NEAR(found[i], expected, slack) << "activation " << static_cast<int>(each.activation) << " element " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, EpilogueTest,
                         testing::Combine(testing::ValuesIn(available_targets()), testing::ValuesIn(kComputeDTypes)),
                         [](const auto& info) {
                           return parameter_name(std::get<0>(info.param), std::get<1>(info.param));
                         });

}  // namespace
}  // namespace nibble
