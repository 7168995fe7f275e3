// Every variant of the architecture against transformers, on every device: logits in every compute dtype, greedy
// tokens, padded batches.
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "golden.h"
#include "nibble/nibble.h"
#include "tests/devices.h"

namespace nibble::testing {
namespace {

Engine open(const std::string& name, DType dtype, Device device) {
  return Engine::open(golden_model(name), {.compute_dtype = dtype, .device = device, .threads = 2});
}

const char* dtype_suffix(DType dtype) { return dtype == DType::kF32 ? "" : dtype == DType::kF16 ? "_fp16" : "_bf16"; }

/// The cases whose expected tensors include this one.
std::vector<std::string> cases_with(const std::string& tensor) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(golden_model(""))) {
    const std::string name = entry.path().filename().string();
    if (entry.is_directory() && Expected(name).has(tensor)) names.insert(name);
  }
  return {names.begin(), names.end()};
}

/// Those whose own logits bitsandbytes computed in another way than from its weights.
std::vector<std::string> int8_cases() {
  std::vector<std::string> names = cases_with("logits_weight_only.0");
  std::erase_if(names, [](const std::string& name) { return !Expected(name).has("logits.0"); });
  return names;
}

class Golden : public ::testing::TestWithParam<std::tuple<Device, std::string>> {
 protected:
  Engine open(DType dtype) const { return testing::open(name(), dtype, std::get<0>(GetParam())); }
  const std::string& name() const { return std::get<1>(GetParam()); }
};
class GoldenFloat : public Golden {};

TEST_P(Golden, LogitsEqualTransformersInEveryDtype) {
  const Expected expected(name());
  // A quantized checkpoint is compared with the same model whose weights bitsandbytes dequantized.
  const std::string kind = expected.has("logits_weight_only.0") ? "logits_weight_only" : "logits";
  int compared = 0;
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (int prompt = 0; prompt < 2; ++prompt) {
      const std::string suffix = "." + std::to_string(prompt);
      const std::string key = kind + dtype_suffix(dtype) + suffix;
      if (!expected.has(key)) continue;
      const Engine engine = open(dtype);
      const std::vector<float> logits = engine.session().logits(expected.ints("tokens" + suffix));
      const std::vector<float> wanted = expected.floats(key);
      ASSERT_EQ(logits.size(), wanted.size());
      EXPECT_LT(relative_error(logits, wanted), tolerance(dtype, engine.info().layers)) << key;
      ++compared;
    }
  }
  EXPECT_GE(compared, 2);
}

TEST_P(GoldenFloat, GreedyTokensEqualTransformers) {
  const Expected expected(name());
  const Engine engine = open(DType::kF32);
  Session session = engine.session({.sequences = 2});
  GenerateOptions options;
  options.max_tokens = static_cast<int>(expected.ints("greedy.0").size());
  options.ignore_eos = true;
  const std::vector<std::vector<int>> prompts{expected.ints("tokens.0"), expected.ints("tokens.1")};
  const auto completions = session.generate(prompts, options);
  EXPECT_EQ(completions[0].tokens, expected.ints("greedy.0"));
  EXPECT_EQ(completions[1].tokens, expected.ints("greedy.1"));
}

TEST_P(GoldenFloat, MaskedTokensAreAsIfTheyWereNotThere) {
  const Expected expected(name());
  const Engine engine = open(DType::kF32);
  for (const char* kind : {"batch", "holes"}) {
    const std::vector<int> tokens = expected.ints("batch_tokens");
    const std::vector<int> mask = expected.ints(std::string(kind) + "_mask");
    const std::vector<float> wanted = expected.floats(std::string(kind) + "_logits");
    const auto columns = static_cast<std::size_t>(expected.shape("batch_tokens")[1]);
    const auto vocabulary = static_cast<std::size_t>(engine.info().vocab_size);
    for (std::size_t row = 0; row < tokens.size() / columns; ++row) {
      const std::vector<std::uint8_t> row_mask(mask.begin() + static_cast<std::ptrdiff_t>(row * columns),
                                               mask.begin() + static_cast<std::ptrdiff_t>((row + 1) * columns));
      const std::vector<float> logits =
          engine.session().logits(std::span(tokens).subspan(row * columns, columns), row_mask);
      for (std::size_t i = 0; i < columns; ++i) {
        if (row_mask[i] == 0) continue;
        const auto found = std::span(logits).subspan(i * vocabulary, vocabulary);
        const auto reference = std::span(wanted).subspan((row * columns + i) * vocabulary, vocabulary);
        EXPECT_LT(relative_error(found, reference), tolerance(DType::kF32, engine.info().layers)) << kind << i;
      }
    }
  }
}

class LlmInt8 : public ::testing::TestWithParam<Device> {};

TEST_P(LlmInt8, LogitsEqualBitsandbytes) {
  // Where the last bit of an activation differs it may become another whole number, 1/127 of the largest further, and
  // that and all later positions' logits are off by a percent or so: seldom, as it takes a value between two numbers.
  int positions = 0, equal = 0;
  for (const std::string& name : int8_cases()) {
    const Expected expected(name), own(name, "llm_int8.safetensors");
    const LoadOptions load{
        .scheme = Scheme::kInt8Decomp, .compute_dtype = DType::kF32, .device = GetParam(), .threads = 2};
    const Engine engine = Engine::open(golden_model(name), load);
    const auto vocabulary = static_cast<std::size_t>(engine.info().vocab_size);
    for (const std::string prompt : {".0", ".1"}) {
      const std::vector<float> wanted = own.floats("logits" + prompt);
      const std::vector<float> found = engine.session().logits(expected.ints("tokens" + prompt));
      ASSERT_EQ(found.size(), wanted.size());
      EXPECT_LT(relative_error(found, wanted), 0.02) << name << prompt;
      for (std::size_t i = 0; i < found.size(); i += vocabulary, ++positions) {
        const double error =
            relative_error(std::span(found).subspan(i, vocabulary), std::span(wanted).subspan(i, vocabulary));
        equal += error < tolerance(DType::kF32, engine.info().layers) ? 1 : 0;
      }
    }
  }
  EXPECT_EQ(positions, 80);
  EXPECT_GE(equal, positions / 2);
}

/// A GPU adds up in another order, and its tokens are the CPU's all the same.
class OtherDevice : public Golden {};

TEST_P(OtherDevice, ChoosesTheTokensThatTheCpuChooses) {
  const Expected expected(name());
  GenerateOptions options;
  options.max_tokens = 64;
  options.ignore_eos = true;
  const std::vector<std::vector<int>> prompts{expected.ints("tokens.0"), expected.ints("tokens.1")};
  const auto wanted =
      testing::open(name(), DType::kF32, Device::kCpu).session({.sequences = 2}).generate(prompts, options);
  const auto found = open(DType::kF32).session({.sequences = 2}).generate(prompts, options);
  for (std::size_t i = 0; i < prompts.size(); ++i) EXPECT_EQ(found[i].tokens, wanted[i].tokens);
}

std::string case_name(const ::testing::TestParamInfo<std::tuple<Device, std::string>>& info) {
  return std::string(to_string(std::get<0>(info.param))) + "_" + std::get<1>(info.param);
}

std::vector<Device> other_devices() {
  std::vector<Device> others = devices();
  std::erase(others, Device::kCpu);
  return others;
}

INSTANTIATE_TEST_SUITE_P(All, Golden,
                         ::testing::Combine(::testing::ValuesIn(devices()),
                                            ::testing::ValuesIn(cases_with("tokens.0"))),
                         case_name);
INSTANTIATE_TEST_SUITE_P(Unquantized, GoldenFloat,
                         ::testing::Combine(::testing::ValuesIn(devices()),
                                            ::testing::ValuesIn(cases_with("greedy.0"))),
                         case_name);
INSTANTIATE_TEST_SUITE_P(All, LlmInt8, ::testing::ValuesIn(devices()),
                         [](const auto& info) { return std::string(to_string(info.param)); });
INSTANTIATE_TEST_SUITE_P(All, OtherDevice,
                         ::testing::Combine(::testing::ValuesIn(other_devices()),
                                            ::testing::ValuesIn(cases_with("tokens.0"))),
                         case_name);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(OtherDevice);

}  // namespace
}  // namespace nibble::testing
