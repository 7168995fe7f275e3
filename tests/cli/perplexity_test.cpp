// nibble perplexity beside transformers + bitsandbytes: the bundled model under every scheme
// (tests/golden/quality.json, made by scripts/golden/quality.py).
#include <gtest/gtest.h>

#include <cmath>

#include "nibble/engine.h"
#include "program.h"

namespace nibble::testing {
namespace {

Json fixture(const std::string& name) { return Json::parse(read_file(NIBBLE_FIXTURES_DIR "/" + name)); }

/// The text of bundled.json's windows, without the token each begins with.
std::string golden_text() {
  const Json windows = fixture("bundled.json").at("windows");
  std::vector<int> tokens;
  for (const Json& window : windows) tokens.insert(tokens.end(), window.begin() + 1, window.end());
  return Engine::open(kBundled).detokenize(tokens);
}

class Quality : public ::testing::TestWithParam<std::string> {
 protected:
  /// The bundled model with its weights dequantized.
  static void SetUpTestSuite() {
    folder_ = new TempDir;
    output({"quantize", kBundled, *folder_ / "plain", "--scheme", "none", "-q"});
    write_file(*folder_ / "text", golden_text());
  }
  static void TearDownTestSuite() { delete folder_; }

  static Json measured(const std::string& scheme, const std::string& window, const std::string& stride) {
    return json_output({"perplexity", "-m", *folder_ / "plain", "-f", *folder_ / "text", "--dtype", "fp32", "--scheme",
                        scheme, "--base-scheme", "none", "--window", window, "--stride", stride});
  }

  /// Two correct fp32 implementations have logits apart by a relative 4 sqrt(k) u sqrt(2 (12 L + 4)), as in
  /// tests/runtime/golden.h, with k = 1792 and L = 8: 1.4e-4 of logits of about 10.
  static constexpr double kLogit = 1.4e-3;

  static void expect_as_golden(const Json& found, const Json& expected) {
    const Json& base = found.at("base");
    EXPECT_EQ(found.at("predictions"), expected.at("predictions"));
    EXPECT_NEAR(found.at("mean_nll").at("mean"), expected.at("mean_nll").at("mean"), kLogit);
    EXPECT_NEAR(found.at("mean_nll").at("error"), expected.at("mean_nll").at("error"), kLogit);
    EXPECT_NEAR(found.at("perplexity"), std::exp(expected.at("mean_nll").at("mean").get<double>()),
                kLogit * found.at("perplexity").get<double>());
    // A divergence is half the variance of the logits' differences: shifting them by e changes it by e sqrt(2 D) + e^2.
    const double divergence = expected.at("kl_divergence").at("mean");
    EXPECT_NEAR(base.at("kl_divergence").at("mean"), divergence, kLogit * std::sqrt(2 * divergence) + kLogit * kLogit);
    EXPECT_NEAR(base.at("kl_divergence").at("error"), expected.at("kl_divergence").at("error"),
                kLogit * std::sqrt(2 * divergence) + kLogit * kLogit);
    // The likeliest two tokens are within kLogit of each other for about 1 token in 1000.
    EXPECT_NEAR(base.at("same_likeliest").at("mean"), expected.at("same_likeliest").at("mean"), 0.002);
    // A probability p changes by at most p kLogit, in either direction.
    const Json& change = expected.at("probability_change");
    EXPECT_NEAR(base.at("probability_change").at("mean"), change.at("mean"), kLogit / 20);
    EXPECT_NEAR(base.at("probability_change").at("rms"), change.at("rms"), kLogit / 4);
  }

  static inline TempDir* folder_ = nullptr;
};

TEST_P(Quality, IsWhatTransformersFinds) {
  expect_as_golden(measured(GetParam(), "255", "255"), fixture("quality.json").at(GetParam() + " 255 255"));
}

INSTANTIATE_TEST_SUITE_P(Schemes, Quality, ::testing::Values("none", "int8", "fp4", "nf4", "fp4-dq", "nf4-dq"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

using StridedQuality = Quality;

TEST_F(StridedQuality, PredictsEachTokenOnceBehindWhatWasReadBefore) {
  expect_as_golden(measured("fp4", "128", "48"), fixture("quality.json").at("fp4 128 48"));
}

TEST(Perplexity, OfTheBundledModelIsThatOfTransformers) {
  const TempDir folder;
  const std::string text = write_file(folder / "text", golden_text());
  const Arguments arguments{"perplexity", "-m", kBundled, "-f", text, "--dtype", "fp32", "--window", "255"};
  const double expected = std::exp(fixture("bundled.json").at("mean_nll_fp32").get<double>());
  EXPECT_NEAR(json_output(arguments).at("perplexity"), expected, 1.4e-3 * expected);

  Arguments shorter = arguments;
  shorter.insert(shorter.end(), {"--chunks", "2"});
  const Result result = run(shorter);
  EXPECT_EQ(result.code, 0);
  for (const char* part : {"nf4, fp32; 2 windows of 255 tokens every 255, 510 predictions", "perplexity  ", " +/- "}) {
    EXPECT_TRUE(contains(result.out, part)) << part << " is not in\n" << result.out;
  }
  EXPECT_TRUE(contains(result.err, "reading 50% perplexity ")) << result.err;
  EXPECT_FALSE(contains(result.out, "KL")) << "nothing was asked to be compared";
}

TEST(Perplexity, LeavesOutWhatTheTokenizerPutsBehindAText) {
  const TempDir folder;
  const std::string text = write_file(folder / "text", "The sea was still and the old man slept in his boat.");
  const auto measured = [&](const std::string& model) {
    return json_output({"perplexity", "-m", model, "-f", text, "--window", "4", "--stride", "1"});
  };
  const std::string model = folder / "model";
  std::filesystem::copy(kBundled, model);
  const std::string settings = model + "/tokenizer_config.json";
  Json config = Json::parse(read_file(settings));
  config["add_eos_token"] = true;
  write_file(settings, config.dump());
  ASSERT_EQ(Engine::open(model).tokenize("").size(), 2U);
  const Json found = measured(model), expected = measured(kBundled);
  EXPECT_EQ(found.at("prefix"), Json({2}));
  for (const char* key : {"windows", "predictions", "perplexity"}) EXPECT_EQ(found.at(key), expected.at(key)) << key;
}

}  // namespace
}  // namespace nibble::testing
