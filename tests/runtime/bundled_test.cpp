// The model that ships with nibble: the same loss as transformers on the same windows (tests/golden/bundled.json, made
// by scripts/golden/bundled.py).
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "nibble/nibble.h"
#include "tests/devices.h"
#include "tests/places.h"

namespace nibble {
namespace {

using Json = nlohmann::json;

Json golden() { return Json::parse(std::ifstream(fixtures_dir() + "/bundled.json")); }

/// Summed negative log-likelihood of tokens[1..].
double negative_log_likelihood(Session& session, const std::vector<int>& tokens, std::size_t vocabulary) {
  const std::vector<float> logits = session.logits(tokens);
  double sum = 0;
  for (std::size_t i = 0; i + 1 < tokens.size(); ++i) {
    const auto row = std::span(logits).subspan(i * vocabulary, vocabulary);
    double normalizer = 0;
    for (const float logit : row) normalizer += std::exp(static_cast<double>(logit));
    sum += std::log(normalizer) - static_cast<double>(row[static_cast<std::size_t>(tokens[i + 1])]);
  }
  return sum;
}

double mean_nll(Device device, DType dtype, const Json& windows) {
  const Engine engine = Engine::open(bundled_model(), {.compute_dtype = dtype, .device = device});
  Session session = engine.session({.context = 256});
  double sum = 0;
  std::size_t count = 0;
  for (const Json& window : windows) {
    sum += negative_log_likelihood(session, window.get<std::vector<int>>(),
                                   static_cast<std::size_t>(engine.info().vocab_size));
    count += window.size() - 1;
  }
  return sum / static_cast<double>(count);
}

class BundledOnDevice : public testing::TestWithParam<Device> {};

TEST_P(BundledOnDevice, HasThePerplexityOfTransformers) {
  const Json expected = golden();
  // exp(difference of mean losses) is the ratio of perplexities.
  const double fp32 = mean_nll(GetParam(), DType::kF32, expected["windows"]);
  EXPECT_NEAR(std::exp(fp32 - expected["mean_nll_fp32"].get<double>()), 1.0, 0.0005);
  // In 16 bits both sides round every activation; a mean over 2,000 tokens stays within a tenth of a percent.
  const double fp16 = mean_nll(GetParam(), DType::kF16, expected["windows"]);
  EXPECT_NEAR(std::exp(fp16 - expected["mean_nll_fp16"].get<double>()), 1.0, 0.001);
}

INSTANTIATE_TEST_SUITE_P(All, BundledOnDevice, testing::ValuesIn(devices()), device_name);

TEST(Bundled, TokenizesAndGoesBackAsTransformersDoes) {
  const Json expected = golden();
  const Engine engine = Engine::open(bundled_model());
  const auto text = expected["text"].get<std::string>();
  const std::vector<int> ids = engine.tokenize(text);
  EXPECT_EQ(ids, expected["text_ids"].get<std::vector<int>>());
  EXPECT_EQ(engine.detokenize(ids), text);
  EXPECT_EQ(engine.prefix_tokens(), std::vector<int>{2});
  EXPECT_EQ(engine.suffix_tokens(), std::vector<int>{});
}

TEST(Bundled, StreamsTheTextItReturnsAndStopsAtAStopString) {
  const Engine engine = Engine::open(bundled_model());
  Session session = engine.session({.context = 200});
  GenerateOptions options = engine.default_options();
  options.max_tokens = 60;
  options.temperature = 0;
  std::string streamed;
  const Completion free = session.generate("Once upon a time", options, [&](const Step& step) {
    streamed += step.text;
    return true;
  });
  EXPECT_EQ(streamed, free.text);
  EXPECT_GT(free.text.size(), 60U);

  const std::size_t cut = free.text.find(' ', 30);
  options.stop = {free.text.substr(cut, 8)};
  const Completion stopped = session.generate("Once upon a time", options);
  EXPECT_EQ(stopped.finish, FinishReason::kStopString);
  EXPECT_EQ(stopped.text, free.text.substr(0, free.text.find(options.stop.front())));
}

}  // namespace
}  // namespace nibble
