// The arithmetic of perplexity and of what changes from one model to another, with values worked out by hand.
#include "runtime/cli/quality.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

namespace nibble::cli {
namespace {

constexpr double kClose = 1e-12;

TEST(Mean, HasTheStandardErrorOfItsValues) {
  Mean mean;
  for (const double value : {1.0, 2.0, 3.0, 6.0}) mean.add(value);
  EXPECT_EQ(mean.count(), 4U);
  EXPECT_NEAR(mean.value(), 3.0, kClose);
  EXPECT_NEAR(mean.error(), std::sqrt((4.0 + 1 + 0 + 9) / 4 / 3), kClose);
  EXPECT_NEAR(mean.root_mean_square(), std::sqrt(50.0 / 4), kClose);
}

TEST(Mean, OfOneValueHasNoError) {
  Mean mean;
  mean.add(5);
  EXPECT_EQ(mean.error(), 0.0);
}

TEST(Perplexity, IsTheNumberOfTokensThatAreEquallyLikely) {
  const std::array<float, 8> equal{};
  Mean loss;
  for (int token = 0; token < 8; ++token) loss.add(-Distribution(equal).log_probability(token));
  EXPECT_NEAR(perplexity(loss).value, 8.0, 1e-9);
  EXPECT_NEAR(perplexity(loss).error, 0.0, 1e-6);
}

TEST(Distribution, IsTheSameForShiftedLogitsHoweverLarge) {
  const float log3 = std::log(3.0F);
  const std::array<float, 2> small{0, log3};
  const std::array<float, 2> large{10000, 10000};
  EXPECT_NEAR(Distribution(small).probability(1), 0.75, 1e-7);
  EXPECT_NEAR(Distribution(large).probability(1), 0.5, kClose);
  EXPECT_EQ(Distribution(small).likeliest(), 1);
  EXPECT_EQ(Distribution(large).likeliest(), 0) << "the lowest id wins a tie";
}

TEST(Comparison, MeasuresWhatChanges) {
  // Probabilities 1/4, 3/4 become 1/2, 1/2.
  const std::array<float, 2> base_logits{0, std::log(3.0F)};
  const std::array<float, 2> flat_logits{0, 0};
  const Distribution base(base_logits);
  const Distribution flat(flat_logits);
  Comparison comparison;
  comparison.add(base, flat, 1);
  comparison.add(base, base, 0);
  const double divergence = 0.25 * std::log(0.5) + 0.75 * std::log(1.5);
  constexpr double kFloat = 1e-7;  // the logarithm of 3 is rounded to fp32
  EXPECT_NEAR(comparison.divergence().value(), divergence / 2, kFloat);
  EXPECT_NEAR(comparison.divergence_quantile(1), divergence, kFloat);
  EXPECT_NEAR(comparison.divergence_quantile(0.5), 0.0, kFloat);
  EXPECT_NEAR(comparison.same_likeliest().value(), 0.5, kClose);
  EXPECT_NEAR(comparison.probability_change().value(), -0.125, kFloat);
  EXPECT_NEAR(comparison.loss_difference().value(), std::log(1.5) / 2, kFloat);
  EXPECT_NEAR(comparison.base_loss().value(), (-std::log(0.75) - std::log(0.25)) / 2, kFloat);
}

}  // namespace
}  // namespace nibble::cli
