// Sampling against transformers' logits processors (tests/golden/sampling.json, made by scripts/golden/models.py).
#include "runtime/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "nibble/error.h"
#include "runtime/stop_text.h"
#include "tests/places.h"

namespace nibble {
namespace {

using Json = nlohmann::json;
constexpr float kMasked = -std::numeric_limits<float>::infinity();

std::vector<float> floats(const Json& values) {
  std::vector<float> result;
  for (const Json& value : values) result.push_back(value.is_null() ? kMasked : value.get<float>());
  return result;
}

GenerateOptions options_of(const Json& json) {
  GenerateOptions options;
  options.repetition_penalty = json["repetition_penalty"];
  options.temperature = json["temperature"];
  options.top_k = json["top_k"];
  options.top_p = json["top_p"];
  options.min_p = json["min_p"].is_null() ? 0.0F : json["min_p"].get<float>();
  return options;
}

TEST(Sampler, LeavesTheProbabilitiesThatTransformersLeaves) {
  const Json golden = Json::parse(std::ifstream(fixtures_dir() + "/sampling.json"));
  int compared = 0;
  for (const Json& entry : golden["cases"]) {
    if (entry["options"]["typical_p"] != 1.0) continue;  // not an option of nibble
    const GenerateOptions options = options_of(entry["options"]);
    std::vector<float> logits = floats(golden["logits"][entry["logits"].get<std::string>()]);
    auto history = entry["history"].get<std::vector<int>>();
    penalize_repetition(logits, history, options.repetition_penalty);
    std::vector<Candidate> candidates;
    find_candidates(logits, options, candidates);
    std::map<int, float> left;
    for (const Candidate& c : candidates) {
      if (c.logit != kMasked) left.emplace(c.id, c.logit);
    }
    double total = 0;
    for (const auto& [id, logit] : left) total += std::exp(static_cast<double>(logit));

    const std::vector<float> expected = floats(entry["log_probabilities"]);
    for (int id = 0; id < static_cast<int>(expected.size()); ++id) {
      const float wanted = expected[static_cast<std::size_t>(id)];
      ASSERT_EQ(left.contains(id), wanted != kMasked) << entry["logits"] << entry["options"] << " token " << id;
      if (wanted == kMasked) continue;
      EXPECT_NEAR(static_cast<double>(left.at(id)) - std::log(total), static_cast<double>(wanted), 2e-5);
    }
    ++compared;
  }
  EXPECT_GT(compared, 80);
}

TEST(Sampler, GreedyTakesTheLowestIdOfATie) {
  std::vector<float> logits{1, 3, 2, 3};
  EXPECT_EQ(Sampler({}, 0, 1).sample(logits, {}), 1);
}

TEST(Sampler, DrawsAsOftenAsTheProbabilitiesSay) {
  GenerateOptions options;
  options.temperature = 1.0F;
  const std::vector<float> logits{std::log(0.5F), std::log(0.3F), std::log(0.2F)};
  Sampler sampler(options, 0, 1);
  std::vector<int> counts(3);
  constexpr int kDraws = 30000;
  for (int i = 0; i < kDraws; ++i) {
    std::vector<float> copy = logits;
    ++counts[static_cast<std::size_t>(sampler.sample(copy, {}))];
  }
  // Five standard deviations of a binomial count: 5 * sqrt(30000 * 0.25) = 433.
  EXPECT_NEAR(counts[0], 0.5 * kDraws, 433);
  EXPECT_NEAR(counts[1], 0.3 * kDraws, 433);
  EXPECT_NEAR(counts[2], 0.2 * kDraws, 433);
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

TEST(Sampler, RefusesOptionsOutOfRangeByName) {
  const auto message = [](auto change) {
    GenerateOptions options;
    change(options);
    try {
      check_options(options);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_EQ(message([](auto&) {}), "no error");
  EXPECT_NE(message([](auto& o) { o.temperature = -1; }).find("temperature: expected"), std::string::npos);
  EXPECT_NE(message([](auto& o) { o.temperature = NAN; }).find("temperature: expected"), std::string::npos);
  EXPECT_NE(message([](auto& o) { o.top_p = 1.5F; }).find("top_p: expected"), std::string::npos);
  EXPECT_NE(message([](auto& o) { o.min_p = -0.1F; }).find("min_p: expected"), std::string::npos);
  EXPECT_NE(message([](auto& o) { o.top_k = -3; }).find("top_k: expected"), std::string::npos);
  EXPECT_NE(message([](auto& o) { o.repetition_penalty = 0; }).find("repetition_penalty: expected"), std::string::npos);
  EXPECT_NE(message([](auto& o) { o.max_tokens = 0; }).find("max_tokens: expected"), std::string::npos);
  EXPECT_NE(message([](auto& o) { o.stop = {""}; }).find("stop: expected"), std::string::npos);
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
