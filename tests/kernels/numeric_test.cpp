// Half and BFloat16 against references that compute with exponents instead of bits.
#include "kernels/numeric.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace nibble {
namespace {

struct Format {
  int exponent_bits;
  int fraction_bits;

  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  int smallest_exponent() const { return 1 - bias(); }
};

constexpr Format kHalf{5, 10};
constexpr Format kBFloat16{8, 7};

/// What 16 bits stand for, by the definition of the format (IEEE 754, section 3.4).
double meaning(std::uint16_t bits, Format format) {
  const int fraction = bits & ((1 << format.fraction_bits) - 1);
  const int exponent = (bits >> format.fraction_bits) & ((1 << format.exponent_bits) - 1);
  const double sign = (bits & 0x8000) != 0 ? -1 : 1;
  if (exponent == (1 << format.exponent_bits) - 1) {
    return fraction != 0 ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
  }
  if (exponent == 0) return sign * std::ldexp(fraction, format.smallest_exponent() - format.fraction_bits);
  return sign * std::ldexp(fraction + (1 << format.fraction_bits), exponent - format.bias() - format.fraction_bits);
}

/// The nearest number of the format, ties to even: rounds a whole number of its steps at the value's exponent.
double nearest(float value, Format format) {
  if (!std::isfinite(value) || value == 0) return value;
  const int exponent = std::max(std::ilogb(value), format.smallest_exponent());
  const double step = std::ldexp(1.0, exponent - format.fraction_bits);
  const double rounded = std::nearbyint(value / step) * step;
  const double limit = std::ldexp(1.0, format.bias() + 1);
  return std::fabs(rounded) >= limit ? std::copysign(std::numeric_limits<double>::infinity(), rounded) : rounded;
}

template <class T>
void expect_all_patterns(Format format) {
  for (std::uint32_t pattern = 0; pattern < 0x10000; ++pattern) {
    const auto bits = static_cast<std::uint16_t>(pattern);
    const float widened = to_float(T{bits});
    const double expected = meaning(bits, format);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(widened)) << pattern;
      ASSERT_TRUE(std::isnan(to_float(round_to<T>(widened)))) << pattern;
    } else {
      ASSERT_EQ(static_cast<double>(widened), expected) << pattern;
      ASSERT_EQ(std::signbit(widened), std::signbit(expected)) << pattern;
      ASSERT_EQ(round_to<T>(widened).bits, bits) << pattern;
    }
  }
}

template <class T>
void expect_rounds(float value, Format format) {
  const float rounded_value = rounded<T>(value);
  if (std::isnan(value)) {
    ASSERT_TRUE(std::isnan(rounded_value));
    return;
  }
  ASSERT_EQ(static_cast<double>(rounded_value), nearest(value, format)) << value;
  ASSERT_EQ(std::signbit(rounded_value), std::signbit(value)) << value;
}

/// Every pattern, the middle to its neighbour, and fp32's neighbours of both.
template <class T>
void expect_rounds_around_all_patterns(Format format) {
  for (std::uint32_t pattern = 0; pattern < 0x10000; ++pattern) {
    const float value = to_float(T{static_cast<std::uint16_t>(pattern)});
    const float next = to_float(T{static_cast<std::uint16_t>(pattern + 1)});
    if (!std::isfinite(value) || !std::isfinite(next)) continue;
    const float middle = value + (next - value) / 2;
    for (const float center : {value, middle}) {
      expect_rounds<T>(center, format);
      expect_rounds<T>(std::nextafter(center, 1e38F), format);
      expect_rounds<T>(std::nextafter(center, -1e38F), format);
    }
  }
}

template <class T>
void expect_rounds_random_bits(Format format) {
  std::mt19937 random(7);
  for (int i = 0; i < 1000000; ++i) {
    expect_rounds<T>(std::bit_cast<float>(static_cast<std::uint32_t>(random())), format);
  }
}

TEST(Half, WidensAndReturnsEveryPattern) { expect_all_patterns<Half>(kHalf); }
TEST(Half, RoundsToNearestEvenAroundEveryPattern) { expect_rounds_around_all_patterns<Half>(kHalf); }
TEST(Half, RoundsRandomBitsToNearestEven) { expect_rounds_random_bits<Half>(kHalf); }
TEST(Half, OverflowsAtTheMiddleBeyondTheLargest) {
  EXPECT_EQ(rounded<Half>(65504.0F), 65504.0F);
  EXPECT_EQ(rounded<Half>(65519.996F), 65504.0F);
  EXPECT_EQ(rounded<Half>(65520.0F), std::numeric_limits<float>::infinity());
  EXPECT_EQ(rounded<Half>(-1e10F), -std::numeric_limits<float>::infinity());
}

TEST(BFloat16, WidensAndReturnsEveryPattern) { expect_all_patterns<BFloat16>(kBFloat16); }
TEST(BFloat16, RoundsToNearestEvenAroundEveryPattern) { expect_rounds_around_all_patterns<BFloat16>(kBFloat16); }
TEST(BFloat16, RoundsRandomBitsToNearestEven) { expect_rounds_random_bits<BFloat16>(kBFloat16); }
TEST(BFloat16, OverflowsBeyondTheLargest) {
  EXPECT_EQ(rounded<BFloat16>(std::numeric_limits<float>::max()), std::numeric_limits<float>::infinity());
}

}  // namespace
}  // namespace nibble
