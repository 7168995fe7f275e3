// What options have to do with choosing tokens, and stop strings.
#include "runtime/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "nibble/error.h"
#include "runtime/stop_text.h"

namespace nibble {
namespace {

TEST(Philox, MakesTheNumbersOfItsAuthors) {
  // kat_vectors of Random123, philox4x32 10.
  using Four = std::array<std::uint32_t, 4>;
  constexpr std::uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}), (Four{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (Four{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Four{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RandomBits, AreOthersForEverySeedSequenceAndStepAndEvenlySpread) {
  std::set<std::uint64_t> found;
  std::array<int, 16> counts{};
  for (const std::uint64_t seed : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{1} << 32}) {
    for (int sequence = 0; sequence < 10; ++sequence) {
      for (int step = 0; step < 1000; ++step) {
        const std::uint64_t bits = random_bits(seed, sequence, step);
        found.insert(bits);
        ++counts[bits >> 60];
      }
    }
  }
  constexpr int kDraws = 30000;
  EXPECT_EQ(found.size(), kDraws);
  // Five standard deviations of a binomial count.
  const double deviation = std::sqrt(kDraws * 15.0 / 256);
  for (const int count : counts) EXPECT_NEAR(count, kDraws / 16.0, 5 * deviation);
}

TEST(Sampler, LogprobsAreOfTheWholeDistribution) {
  const std::vector<float> logits{0, std::log(2.0F), std::log(5.0F)};
  const auto result = logprobs(logits, 0, 2);
  ASSERT_EQ(result.size(), 3U);
  EXPECT_EQ(result[0].id, 0);
  EXPECT_NEAR(result[0].logprob, std::log(1.0F / 8), 1e-6);
  EXPECT_EQ(result[1].id, 2);
  EXPECT_NEAR(result[1].logprob, std::log(5.0F / 8), 1e-6);
  EXPECT_EQ(result[2].id, 1);
}

template <class Change>
std::string complaint(Change change) {
  GenerateOptions options;
  change(options);
  try {
    check_options(options);
  } catch (const Error& error) {
    return error.what();
  }
  return "none";
}

TEST(Sampler, RefusesOptionsOutOfRangeByName) {
  EXPECT_EQ(complaint([](auto&) {}), "none");
  EXPECT_EQ(complaint([](auto& o) { o.top_p = 1.5F; }), "top_p: expected a number from 0 to 1, found 1.5");
  EXPECT_EQ(complaint([](auto& o) { o.min_p = -0.1F; }), "min_p: expected a number from 0 to 1, found -0.1");
  EXPECT_EQ(complaint([](auto& o) { o.top_k = -3; }), "top_k: expected at least 0, found -3");
  EXPECT_EQ(complaint([](auto& o) { o.max_tokens = 0; }), "max_tokens: expected at least 1, found 0");
  EXPECT_EQ(complaint([](auto& o) { o.logprobs = -2; }), "logprobs: expected at least -1, found -2");
  EXPECT_NE(complaint([](auto& o) { o.stop = {""}; }).find("stop: expected"), std::string::npos);
}

TEST(Sampler, TakesTemperaturesAndPenaltiesThatLeaveNumbersOfLogits) {
  for (const float value : {1e-6F, 0.7F, 1e6F}) {
    EXPECT_EQ(complaint([=](auto& o) { o.temperature = value, o.repetition_penalty = value; }), "none") << value;
  }
  EXPECT_EQ(complaint([](auto& o) { o.temperature = 0; }), "none");
  constexpr float kMost = std::numeric_limits<float>::max(), kLeast = std::numeric_limits<float>::denorm_min();
  for (const float value : {-1.0F, kLeast, 1e-38F, 9e-7F, 1.1e6F, kMost, INFINITY, NAN}) {
    const std::string of_temperature = complaint([=](auto& o) { o.temperature = value; });
    const std::string of_penalty = complaint([=](auto& o) { o.repetition_penalty = value; });
    EXPECT_TRUE(of_temperature.starts_with("temperature: expected 0 or a number from 1e-06 to 1e+06, found ")) << value;
    EXPECT_TRUE(of_penalty.starts_with("repetition_penalty: expected a number from 1e-06 to 1e+06, found ")) << value;
  }
  EXPECT_TRUE(complaint([](auto& o) { o.repetition_penalty = 0; }).ends_with(", found 0"));
  EXPECT_TRUE(complaint([](auto& o) { o.repetition_penalty = kMost; }).ends_with(", found 3.4028235e+38"));
}

TEST(StopText, HoldsBackWhatMayBecomeAStopString) {
  const std::vector<std::string> stops{"END", "\n\n"};
  StopText text(stops);
  EXPECT_EQ(text.push("the E"), "the ");
  EXPECT_EQ(text.push("Nd\n"), "ENd");
  EXPECT_EQ(text.push("x"), "\nx");
  EXPECT_FALSE(text.stopped());
  EXPECT_EQ(text.push("yENDz"), "y");
  EXPECT_TRUE(text.stopped());
}

TEST(StopText, LetsOutEverythingAtTheEnd) {
  const std::vector<std::string> stops{"aab"};
  StopText text(stops);
  EXPECT_EQ(text.push("aaa"), "a");
  EXPECT_EQ(text.finish(), "aa");
}

}  // namespace
}  // namespace nibble
