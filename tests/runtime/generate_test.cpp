// Where sequences end, and what is left of them, whatever has been computed ahead of that.
#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>

#include "golden.h"
#include "nibble/nibble.h"
#include "tests/devices.h"

namespace nibble::testing {
namespace {

const std::vector<std::vector<int>> kPrompts{{2, 17, 9, 33, 5}, {2, 40, 41}, {2, 8, 8, 60, 61, 62, 63}, {2}};

class Generate : public ::testing::TestWithParam<Device> {
 protected:
  Generate() : engine_(Engine::open(golden_model("pre_norm"), {.device = GetParam(), .threads = 2})) {}

  Session session(int context = 0) const { return engine_.session({.context = context, .sequences = 4}); }

  /// The same with logits, for which a step has to end before the next one begins.
  static std::vector<Completion> one_by_one(Session& session, GenerateOptions options, const OnStep& on_step = {}) {
    options.logprobs = 0;
    return session.generate(kPrompts, options, on_step);
  }

  Engine engine_;
};

INSTANTIATE_TEST_SUITE_P(All, Generate, ::testing::ValuesIn(devices()), device_name);

GenerateOptions sampled(int tokens) {
  return {.max_tokens = tokens, .temperature = 1.3F, .top_p = 0.95F, .seed = 5, .ignore_eos = true};
}

void expect_same(const std::vector<Completion>& found, const std::vector<Completion>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i].tokens, expected[i].tokens) << i;
    EXPECT_EQ(found[i].text, expected[i].text) << i;
    EXPECT_EQ(found[i].finish, expected[i].finish) << i;
  }
}

int tokens_behind_the_first(const std::vector<Completion>& completions) {
  int count = 0;
  for (const Completion& completion : completions) count += static_cast<int>(completion.tokens.size()) - 1;
  return count;
}

TEST_P(Generate, GivesTheTokensOfOneCallEach) {
  Session each = session(), together = session();
  const GenerateOptions greedy{.max_tokens = 70, .ignore_eos = true};
  const auto completions = together.generate(kPrompts, greedy);
  EXPECT_EQ(together.last_stats().decode_tokens, tokens_behind_the_first(completions));
  std::vector<std::vector<int>> texts = kPrompts;
  for (std::size_t t = 0; t < 70; ++t) {
    const auto next = each.generate(texts, {.max_tokens = 1, .ignore_eos = true});
    for (std::size_t i = 0; i < texts.size(); ++i) {
      ASSERT_EQ(next[i].tokens.front(), completions[i].tokens[t]) << i << " " << t;
      texts[i].push_back(next[i].tokens.front());
    }
  }
}

TEST_P(Generate, DrawsTheSameUpToAnyNumberOfTokens) {
  Session some = session();
  for (const int count : {1, 2, 3, 4, 30}) {
    Session reference = session();
    expect_same(some.generate(kPrompts, sampled(count)), one_by_one(reference, sampled(count)));
    EXPECT_EQ(some.last_stats().decode_tokens, 4 * (count - 1));
    some.reset();
  }
}

TEST_P(Generate, FillsTheContextOfEachSequence) {
  Session some = session(20), reference = session(20);
  const auto completions = some.generate(kPrompts, sampled(100));
  expect_same(completions, one_by_one(reference, sampled(100)));
  for (std::size_t i = 0; i < completions.size(); ++i) {
    EXPECT_EQ(completions[i].finish, FinishReason::kContextFull);
    EXPECT_EQ(completions[i].tokens.size(), 20 - kPrompts[i].size());
  }
  EXPECT_EQ(some.last_stats().decode_tokens, tokens_behind_the_first(completions));
}

TEST_P(Generate, EndsEachSequenceAtItsOwnEndToken) {
  Session free = session(30);
  const auto unended = free.generate(kPrompts, sampled(100));
  for (const std::size_t at : {0U, 1U, 2U, 7U}) {
    GenerateOptions options = sampled(100);
    options.ignore_eos = false;
    options.eos_tokens = {unended[0].tokens[at], unended[2].tokens[at + 3]};
    Session some = session(30), reference = session(30);
    const auto completions = some.generate(kPrompts, options);
    EXPECT_EQ(completions[0].finish, FinishReason::kEndOfText);
    expect_same(completions, one_by_one(reference, options));
    EXPECT_EQ(some.last_stats().decode_tokens, tokens_behind_the_first(completions));
    // What follows: all but the last token has been read, and what was read behind that is forgotten.
    std::vector<std::vector<int>> longer = kPrompts;
    for (std::size_t i = 0; i < longer.size(); ++i) {
      longer[i].insert(longer[i].end(), completions[i].tokens.begin(), completions[i].tokens.end());
      longer[i].resize(std::min<std::size_t>(longer[i].size(), 28));
      longer[i].push_back(7);
    }
    expect_same(some.generate(longer, sampled(100)), reference.generate(longer, sampled(100)));
    EXPECT_EQ(some.last_stats().prefill_tokens, reference.last_stats().prefill_tokens);
  }
}

TEST_P(Generate, LeavesOutASequenceWhoseStepIsRefused) {
  Session some = session(30), reference = session(30);
  const auto after = [](std::vector<int> most) {
    return [most, seen = std::vector<int>(4)](const Step& step) mutable {
      const auto i = static_cast<std::size_t>(step.sequence);
      return ++seen[i] < most[i];
    };
  };
  const std::vector<int> most = {3, 1, 100, 4};
  const auto completions = some.generate(kPrompts, sampled(12), after(most));
  expect_same(completions, one_by_one(reference, sampled(12), after(most)));
  EXPECT_EQ(completions[0].finish, FinishReason::kCancelled);
  EXPECT_EQ(completions[0].tokens.size(), 3U);
  EXPECT_EQ(completions[2].tokens.size(), 12U);
  EXPECT_EQ(some.last_stats().decode_tokens, tokens_behind_the_first(completions));
}

TEST_P(Generate, MayBeLeftByAnException) {
  for (const int at : {1, 4, 5, 9, 14}) {
    Session some = session(), reference = session();
    const auto leave = [at, steps = 0](const Step&) mutable {
      return ++steps < at ? true : throw std::runtime_error("enough");
    };
    EXPECT_THROW(some.generate(kPrompts, sampled(20), leave), std::runtime_error);
    EXPECT_THROW(one_by_one(reference, sampled(20), leave), std::runtime_error);
    expect_same(some.generate(kPrompts, sampled(20)), reference.generate(kPrompts, sampled(20)));
    EXPECT_EQ(some.last_stats().prefill_tokens, reference.last_stats().prefill_tokens);
    EXPECT_THROW(some.generate(kPrompts, sampled(20), leave), std::runtime_error);
    EXPECT_EQ(some.logits(kPrompts[0]), reference.logits(kPrompts[0]));
  }
}

TEST_P(Generate, EndsWhereTheTextSaysSo) {
  const Engine engine = Engine::open(bundled_model(), {.device = GetParam(), .threads = 2});
  const std::string prompt = "Once upon a time";
  GenerateOptions options = sampled(40);
  const std::string free = engine.session({.context = 64}).generate(prompt, options).text;
  ASSERT_GT(free.size(), 40U);
  options.stop = {free.substr(30, 4)};
  Session some = engine.session({.context = 64}), reference = engine.session({.context = 64});
  std::string heard;
  const Completion completion = some.generate(prompt, options, [&](const Step& step) {
    heard += step.text;
    return true;
  });
  EXPECT_EQ(completion.finish, FinishReason::kStopString);
  EXPECT_EQ(completion.text, free.substr(0, free.find(options.stop.front())));
  EXPECT_EQ(heard, completion.text);
  options.logprobs = 0;
  EXPECT_EQ(reference.generate(prompt, options).tokens, completion.tokens);
}

}  // namespace
}  // namespace nibble::testing
