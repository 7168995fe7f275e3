// Linear layers whose activations are rounded to 8 bits, on every instruction set: against the same whole numbers added
// up in fp64, and bit for bit against themselves in other batches and with other threads.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/dispatch.h"
#include "tests/kernels/int8_rows.h"
#include "tests/kernels/machines.h"

namespace nibble {
namespace {

std::unique_ptr<Backend> make(CpuTarget target, int threads) {
  return make_cpu_backend({.threads = threads, .target = to_string(target), .int8_activations = true});
}

/// A row's elements as whole numbers, times what one is worth.
std::vector<double> rounded_to_steps(std::span<const float> row) {
  const Int8Elements elements = int8_elements(row);
  std::vector<double> values;
  for (const int code : elements.codes) values.push_back(code * static_cast<double>(elements.absmax) / 127);
  return values;
}

class Int8ActivationsTest : public testing::TestWithParam<std::tuple<CpuTarget, DType>> {
 protected:
  CpuTarget target() const { return std::get<0>(GetParam()); }
  DType dtype() const { return std::get<1>(GetParam()); }
};

TEST_P(Int8ActivationsTest, AreTheSumsOfWholeNumbers) {
  for (const auto& make_weight : {random_int8<Int8Row>, every_int8_code<Int8Row>}) {
    for (const auto [rows, n, k] : {std::array{1, 5, 7}, {3, 37, 100}, {4, 16, 64}, {9, 33, 320}, {130, 18, 1000}}) {
      SCOPED_TRACE(testing::Message() << rows << " x " << n << " x " << k);
      const auto backend = make(target(), 2);
      const Weight weight = make_weight(n, k, 3);
      std::vector<float> w(index(n) * index(k));
      decode_all(weight, w);
      const Matrix x(*backend, dtype(), rows, k, 5), bias(*backend, dtype(), 1, n, 7), y(*backend, dtype(), rows, n);
      backend->linear({weight, bias.buffer()}, x.tensor(), y.tensor());
      const std::vector<float> given = x.values(), biases = bias.values(), found = y.values();
      for (int row = 0; row < rows; ++row) {
        const std::vector<double> steps = rounded_to_steps(std::span(given).subspan(index(row * k), index(k)));
        for (int column = 0; column < n; ++column) {
          double expected = biases[index(column)], magnitude = std::fabs(expected);
          for (int i = 0; i < k; ++i) {
            const double product = steps[index(i)] * static_cast<double>(w[index(column * k + i)]);
            expected += product;
            magnitude += std::fabs(product);
          }
          // A weight and a step are rounded twice each, and 16 exact lanes are added and scaled in fp32.
          const double bound = magnitude * 12 * 0x1p-24 + 2 * rounding(dtype(), expected);
          ASSERT_NEAR(found[index(row * n + column)], expected, bound) << "y[" << row << ", " << column << "]";
        }
      }
    }
  }
}

TEST_P(Int8ActivationsTest, DependOnNeitherBatchNorThreads) {
  constexpr int kRows = 131, kN = 70, kK = 200;
  const Linear linear{random_int8<Int8Row>(kN, kK, 1), {}};
  const auto alone = make(target(), 1);
  const Matrix x(*alone, dtype(), kRows, kK, 2), one_by_one(*alone, dtype(), kRows, kN);
  for (int row = 0; row < kRows; ++row) alone->linear(linear, x.rows(row, 1), one_by_one.rows(row, 1));
  for (const int threads : {1, 2, 5, 8}) {
    for (const int rows : {2, 4, 7, kRows}) {
      const auto backend = make(target(), threads);
      const Matrix y(*backend, dtype(), rows, kN);
      backend->linear(linear, x.rows(0, rows), y.tensor());
      std::vector<float> expected = one_by_one.values();
      expected.resize(index(rows * kN));
      EXPECT_EQ(y.values(), expected) << threads << " threads, " << rows << " rows";
    }
  }
}

/// Of sums beyond 2^24, too: up to there fp32 has all whole numbers, in any order.
TEST_P(Int8ActivationsTest, AreTheSameOnEveryTargetHoweverLongASegmentIs) {
  constexpr int kRows = 290, kN = 150, kK = 2100;
  std::vector<float> weights = random_values(index(kN * kK), 1), values = random_values(index(kRows * kK), 2, 0.1F);
  for (float& weight : weights) weight = 0.1F + std::fabs(weight);
  for (float& value : values) value += 1;
  Int8Row weight{Buffer::allocate(weights.size()), Buffer::allocate(kN * sizeof(float)), kN, kK};
  encode_int8_rows(weights, kK, {weight.codes.mutable_as<std::int8_t>(), weights.size()},
                   {weight.scb.mutable_as<float>(), index(kN)});
  const Linear linear{weight, {}};
  const auto plain = make(CpuTarget::kPortable, 2), backend = make(target(), 2);
  const Matrix expected(*plain, dtype(), kRows, kN), x(*backend, dtype(), kRows, kK, values);
  plain->linear(linear, x.tensor(), expected.tensor());
  for (const std::vector<int>& lengths : {std::vector{kRows}, std::vector{1, 280, 5, 4}}) {
    const Matrix y(*backend, dtype(), kRows, kN);
    begin(*backend, segments_of(lengths));
    project(*backend, x.tensor(), {linear, y.tensor()});
    EXPECT_EQ(y.values(), expected.values());
  }
}

TEST_P(Int8ActivationsTest, KeepNothingAsNothingAndNotANumberAsThat) {
  const auto backend = make(target(), 1);
  const Linear linear{random_int8<Int8Row>(3, 70, 1), {}};
  for (const float odd : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::vector<float> values(140, 0.0F);
    values[139] = odd;
    const Matrix x(*backend, dtype(), 2, 70, values), y(*backend, dtype(), 2, 3);
    backend->linear(linear, x.tensor(), y.tensor());
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(y.values()[index(i)], 0);
      EXPECT_FALSE(std::isfinite(y.values()[index(3 + i)]));
    }
  }
}

TEST_P(Int8ActivationsTest, LeaveOtherLayoutsAlone) {
  const auto plain = make_cpu_backend({.threads = 1, .target = to_string(target())});
  const auto rounding = make(target(), 1);
  for (const WeightCase& weight_case : kWeightCases) {
    const Linear linear{weight_case.make(9, 256, 1), {}};
    const Matrix x(*plain, dtype(), 6, 256, 2), y(*plain, dtype(), 6, 9), z(*plain, dtype(), 6, 9);
    plain->linear(linear, x.tensor(), y.tensor());
    rounding->linear(linear, x.tensor(), z.tensor());
    EXPECT_EQ(y.values() == z.values(), !std::holds_alternative<Int8Row>(linear.weight)) << weight_case.name;
  }
}

INSTANTIATE_TEST_SUITE_P(All, Int8ActivationsTest,
                         testing::Combine(testing::ValuesIn(available_targets()), testing::ValuesIn(kComputeDTypes)),
                         [](const auto& info) {
                           std::string name(to_string(std::get<0>(info.param)));
                           std::erase(name, '-');
                           return name + "_" + std::string(to_string(std::get<1>(info.param)));
                         });

}  // namespace
}  // namespace nibble
