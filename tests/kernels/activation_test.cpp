// Activations where they are not smooth; what they are elsewhere, golden models hold (tests/runtime/golden_test.cpp).
#include "kernels/activation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace nibble {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(Activation, CutsOffWhatIsNegativeAsTorchDoes) {
  for (const Activation cut : {Activation::kRelu, Activation::kRelu2, Activation::kRelu6}) {
    EXPECT_EQ(activated(-kInfinity, cut), 0.0F);
    EXPECT_EQ(activated(-1.5F, cut), 0.0F);
    EXPECT_EQ(activated(0.0F, cut), 0.0F);
    EXPECT_TRUE(std::isnan(activated(std::nanf(""), cut)));
  }
}

TEST(Activation, LeavesSquaresOrCapsWhatIsPositive) {
  EXPECT_EQ(activated(7.5F, Activation::kRelu), 7.5F);
  EXPECT_EQ(activated(7.5F, Activation::kRelu2), 56.25F);
  EXPECT_EQ(activated(7.5F, Activation::kRelu6), 6.0F);
  EXPECT_EQ(activated(2.5F, Activation::kRelu6), 2.5F);
  EXPECT_EQ(activated(kInfinity, Activation::kRelu), kInfinity);
}

}  // namespace
}  // namespace nibble
