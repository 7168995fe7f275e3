// int8 weights beside rows of x whose elements differ by many powers of two, against a plain sum in fp64. In AMX's
// tiles 512 columns of such a row are whole numbers by their largest; elsewhere it is multiplied as it is.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/kernels/machines.h"

namespace nibble {
namespace {

class Int8DigitsTest : public VerbTest {};

/// Largest elements of rows: where a power of two begins and ends, where a number of one digit more would begin, and
/// none.
constexpr float kLargest[] = {1, 0x1.fffffep0F, -0x1.fffffep0F, 0x1.fdp0F, 0x1.fbp0F, -0x1.feffp0F, 1.5F, 0};

/// Rows of small elements, each 2^-6 to 2^-25 of a largest, times powers of two.
std::vector<float> uneven_rows(int rows, int k, DType dtype) {
  std::vector<float> values = random_values(index(rows) * index(k), 5);
  const int most = dtype == DType::kF16 ? 6 : 60;
  for (int row = 0; row < rows; ++row) {
    const float largest = kLargest[index(row) % std::size(kLargest)];
    const int power = row / static_cast<int>(std::size(kLargest)) % 3 * most - most;
    for (int i = 0; i < k; ++i) {
      float& value = values[index(row * k + i)];
      value = std::clamp(value, -4.0F, 4.0F) * std::fabs(largest);
      value = i == row % k ? std::ldexp(largest, power) : std::ldexp(value, power - 8 - i % 20);
    }
  }
  return values;
}

TEST_P(Int8DigitsTest, TakeFromSmallElementsWhatALargestAllows) {
  constexpr int kRows = 50, kN = 19;
  const auto backend = machine().backend(2);
  for (const auto& make_weight : {random_int8<Int8Row>, every_int8_code<Int8Row>}) {
    for (const int k : {1, 5, 70, 128, 600, 2100}) {
      const Weight weight = make_weight(kN, k, 3);
      std::vector<float> w(index(kN) * index(k));
      decode_all(weight, w);
      const Matrix x(*backend, dtype(), kRows, k, uneven_rows(kRows, k, dtype())), y(*backend, dtype(), kRows, kN);
      begin(*backend, {kRows});
      project(*backend, x.tensor(), {{backend->prepare(weight), {}}, y.tensor()});
      const std::vector<float> given = x.values(), found = y.values();
      // A block's sums of digits are rounded three times, its sum once more, a row's twice, and so is a decoded weight.
      constexpr int kBlock = 512;
      const bool digits = machine().digits(dtype(), weight);
      const double sum_error = digits ? (7 + k / kBlock + 1) * 0x1p-24 : machine().sum_error(index(k));
      for (int row = 0; row < kRows; ++row) {
        const auto elements = std::span(given).subspan(index(row * k), index(k));
        std::vector<double> errors(index(k));
        for (int i = 0; i < k; ++i) {
          const int first = i / kBlock * kBlock;
          const auto block = elements.subspan(index(first), index(std::min(kBlock, k - first)));
          float largest = 0;
          for (const float element : digits ? block : elements) largest = std::max(largest, std::fabs(element));
          errors[index(i)] =
              digits ? machine().digit_error(dtype(), largest) : machine().factor_error(dtype(), weight, largest);
        }
        for (int column = 0; column < kN; ++column) {
          double expected = 0, magnitude = 0, factors = 0;
          for (int i = 0; i < k; ++i) {
            const double element = elements[index(i)], value = w[index(column * k + i)], error = errors[index(i)];
            expected += element * value;
            magnitude += std::fabs(value) * (std::fabs(element) + error);
            factors += std::fabs(value) * error + std::fabs(element) * machine().weight_error(dtype(), value);
          }
          const double bound = magnitude * sum_error + factors + 2 * rounding(dtype(), expected);
          ASSERT_NEAR(found[index(row * kN + column)], expected, bound) << "y[" << row << ", " << column << "] k " << k;
        }
      }
    }
  }
}

/// Of fp32's range both ends, where a power of two that elements are multiplied by could leave it.
TEST_P(Int8DigitsTest, HoldForTheLargestAndTheLeastNumbers) {
  if (dtype() != DType::kF32) return;
  constexpr int kRows = 6, kN = 5, kK = 70;
  const auto backend = machine().backend(1);
  Int8Row codes{Buffer::allocate(kN * kK), buffer_of<float>(std::vector<float>(kN, 0x1p-8F)), kN, kK};
  for (int i = 0; i < kN * kK; ++i) codes.codes.mutable_as<std::int8_t>()[i] = static_cast<std::int8_t>(i % 2);
  const Linear linear{backend->prepare(codes), {}};
  std::vector<float> w(kN * kK);
  decode_all(Weight(codes), w);
  for (const float element : {-0x1.fcp127F, 0x1.8p127F, 0x1p127F, 0x1p-80F, 0x1p-100F}) {
    std::vector<float> values(kRows * kK, 0.0F);
    for (int row = 0; row < kRows; ++row) values[index(row * kK + 3 * row)] = element;
    const Matrix x(*backend, dtype(), kRows, kK, values), y(*backend, dtype(), kRows, kN);
    begin(*backend, {kRows});
    project(*backend, x.tensor(), {linear, y.tensor()});
    const std::vector<float> found = y.values();
    for (int row = 0; row < kRows; ++row) {
      for (int column = 0; column < kN; ++column) {
        const double expected = static_cast<double>(element) * static_cast<double>(w[index(column * kK + 3 * row)]);
        ASSERT_NEAR(found[index(row * kN + column)], expected, std::fabs(expected) * 8 * 0x1p-24) << element;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Int8DigitsTest, machines_and_dtypes(), verb_test_name);

}  // namespace
}  // namespace nibble
