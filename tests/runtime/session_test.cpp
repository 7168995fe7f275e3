#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "golden.h"
#include "nibble/nibble.h"
#include "tests/affinity.h"
#include "tests/devices.h"
#include "tests/places.h"

namespace nibble::testing {
namespace {

template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

Engine tiny(DType dtype = DType::kF32, Device device = Device::kCpu) {
  return Engine::open(golden_model("pre_norm"), {.compute_dtype = dtype, .device = device, .threads = 2});
}

const std::vector<int> kPrompt{2, 17, 9, 33, 5};

GenerateOptions greedy(int tokens) {
  GenerateOptions options;
  options.max_tokens = tokens;
  options.ignore_eos = true;
  return options;
}

/// What holds on every device.
class SessionOnDevice : public ::testing::TestWithParam<Device> {};

INSTANTIATE_TEST_SUITE_P(All, SessionOnDevice, ::testing::ValuesIn(devices()), device_name);

TEST_P(SessionOnDevice, GivesEverySequenceExactlyWhatItGivesAlone) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const Engine engine = tiny(dtype, GetParam());
    const std::vector<std::vector<int>> prompts{{2, 17, 9}, {2}, {2, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49}, {2, 8}};
    GenerateOptions options = greedy(20);
    options.logprobs = 3;
    const auto together = engine.session({.sequences = 4}).generate(prompts, options);
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      const auto alone = engine.session().generate(std::span(prompts).subspan(i, 1), options).front();
      EXPECT_EQ(together[i].tokens, alone.tokens);
      ASSERT_EQ(together[i].logprobs.size(), 20U);
      for (std::size_t t = 0; t < 20; ++t) {
        EXPECT_EQ(together[i].logprobs[t][0].logprob, alone.logprobs[t][0].logprob) << "bit for bit";
      }
    }
  }
}

TEST(Session, WithInt8ActivationsGivesEverySequenceExactlyWhatItGivesAlone) {
  const LoadOptions load{.scheme = Scheme::kInt8, .threads = 2, .int8_activations = true};
  const Engine engine = Engine::open(golden_model("pre_norm"), load);
  const std::vector<std::vector<int>> prompts{{2, 17, 9}, {2}, {2, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49}};
  GenerateOptions options = greedy(8);
  options.logprobs = 0;
  const auto together = engine.session({.sequences = 3}).generate(prompts, options);
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const auto alone = engine.session().generate(std::span(prompts).subspan(i, 1), options).front();
    EXPECT_EQ(together[i].tokens, alone.tokens);
    for (std::size_t t = 0; t < 8; ++t) EXPECT_EQ(together[i].logprobs[t][0].logprob, alone.logprobs[t][0].logprob);
  }
  const LoadOptions plain{.scheme = Scheme::kInt8, .threads = 2};
  EXPECT_NE(engine.session().logits(kPrompt), Engine::open(golden_model("pre_norm"), plain).session().logits(kPrompt));
}

TEST(Session, WithPinnedThreadsIsTheSame) {
  if (cores_of(0) < 2) GTEST_SKIP() << "there is one core only";
  const LoadOptions pinned{.threads = 2, .pin_threads = true};
  Session session = Engine::open(golden_model("pre_norm"), pinned).session();
  EXPECT_EQ(pinned_threads(), 1);
  EXPECT_EQ(session.logits(kPrompt), tiny().session().logits(kPrompt));
}

TEST(Session, DoesNotDependOnTheNumberOfThreads) {
  const std::vector<float> one = Engine::open(golden_model("pre_norm"), {.threads = 1}).session().logits(kPrompt);
  const std::vector<float> three = Engine::open(golden_model("pre_norm"), {.threads = 3}).session().logits(kPrompt);
  EXPECT_EQ(one, three);
}

TEST_P(SessionOnDevice, ComputesOnlyWhatAPromptAddsToWhatIsHeld) {
  const Engine engine = tiny(DType::kF32, GetParam());
  Session session = engine.session();
  const std::vector<std::vector<int>> prompts{kPrompt};
  const auto first = session.generate(prompts, greedy(4)).front();
  EXPECT_EQ(session.last_stats().prefill_tokens, 5);
  std::vector<int> longer = kPrompt;
  longer.insert(longer.end(), first.tokens.begin(), first.tokens.end());
  longer.push_back(7);
  const std::vector<std::vector<int>> more{longer};
  const auto continued = session.generate(more, greedy(6)).front();
  EXPECT_EQ(session.last_stats().prefill_tokens, 2) << "the last generated token was never read, and the new one";
  session.reset();
  EXPECT_EQ(session.generate(more, greedy(6)).front().tokens, continued.tokens);
  EXPECT_EQ(session.last_stats().prefill_tokens, 10);
}

TEST_P(SessionOnDevice, TimesItsKernelsAndForgetsWhatItHeld) {
  const Engine engine = tiny(DType::kF16, GetParam());
  Session session = engine.session({.context = 20, .sequences = 2});
  const std::vector<std::vector<int>> prompts{kPrompt};
  const auto before = session.generate(prompts, greedy(4)).front();
  for (const int rows : {1, 6}) {
    const std::vector<KernelTiming> timings = session.time_kernels(rows, 14, 3);
    ASSERT_EQ(timings.size(), 6U);
    for (const KernelTiming& timing : timings) {
      EXPECT_EQ(timing.m, timing.name == "head" ? 2 : 2 * rows) << timing.name;
      EXPECT_EQ(timing.seconds.size(), 3U);
      EXPECT_TRUE(std::ranges::all_of(timing.seconds, [](double seconds) { return seconds > 0; })) << timing.name;
    }
  }
  EXPECT_EQ(session.generate(prompts, greedy(4)).front().tokens, before.tokens);
  EXPECT_EQ(session.last_stats().prefill_tokens, 5);
  EXPECT_EQ(error_of([&] { session.time_kernels(7, 14, 3); }),
            "time_kernels: expected at least one row and repetition, at most 20 tokens in a sequence and 20 in a step, "
            "found 7 rows behind 14 tokens in 2 sequences");
  constexpr int kMost = std::numeric_limits<int>::max();
  const std::string sentence = error_of([&] { session.time_kernels(kMost, 1, 1); });
  EXPECT_TRUE(sentence.ends_with("found 2147483647 rows behind 1 tokens in 2 sequences")) << sentence;
}

TEST_P(SessionOnDevice, DrawsWhatItDrawsAloneAndWithoutLogprobs) {
  const Engine engine = tiny(DType::kF16, GetParam());
  const std::vector<std::vector<int>> prompts{{2, 17, 9}, {2}, {2, 40, 41, 42, 43, 44, 45, 46}};
  GenerateOptions options = greedy(20);
  options.temperature = 1.2F;
  options.top_p = 0.95F;
  options.repetition_penalty = 1.2F;
  options.seed = 3;
  const auto together = engine.session({.sequences = 3}).generate(prompts, options);
  EXPECT_EQ(engine.session().generate(std::span(prompts).first(1), options).front().tokens, together[0].tokens);
  options.logprobs = 2;
  const auto with_logprobs = engine.session({.sequences = 3}).generate(prompts, options);
  for (std::size_t i = 0; i < prompts.size(); ++i) EXPECT_EQ(with_logprobs[i].tokens, together[i].tokens);
  const std::vector<std::vector<int>> alike(3, prompts[0]);
  const auto drawn = engine.session({.sequences = 3}).generate(alike, options);
  EXPECT_NE(drawn[1].tokens, drawn[0].tokens) << "each sequence has its own draws";
}

TEST_P(SessionOnDevice, SameSeedGivesSameTokensAndAnotherSeedOthers) {
  const Engine engine = tiny(DType::kF32, GetParam());
  const std::vector<std::vector<int>> prompts{kPrompt};
  GenerateOptions options = greedy(30);
  options.temperature = 1.5F;
  options.seed = 7;
  const auto first = engine.session().generate(prompts, options).front().tokens;
  EXPECT_EQ(engine.session().generate(prompts, options).front().tokens, first);
  options.seed = 8;
  EXPECT_NE(engine.session().generate(prompts, options).front().tokens, first);
}

TEST_P(SessionOnDevice, GivesAfterResetExactlyWhatANewSessionGives) {
  std::vector<int> prompt{2};  // more tokens than any device reads without tiles
  for (int i = 1; i < 40; ++i) prompt.push_back(3 + 31 * i % 90);
  const std::vector<std::vector<int>> prompts{prompt};
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const Engine engine = tiny(dtype, GetParam());
    for (const float temperature : {0.0F, 1.5F}) {
      GenerateOptions options = greedy(30);
      options.temperature = temperature;
      options.seed = 7;
      options.logprobs = 0;
      Session session = engine.session();
      const auto expect_as_new = [&] {
        const auto found = session.generate(prompts, options).front();
        const auto expected = engine.session().generate(prompts, options).front();
        EXPECT_EQ(found.tokens, expected.tokens);
        for (std::size_t t = 0; t < expected.logprobs.size(); ++t) {
          ASSERT_EQ(found.logprobs[t][0].logprob, expected.logprobs[t][0].logprob) << "bit for bit, token " << t;
        }
      };
      expect_as_new();
      session.generate(prompts, options);
      EXPECT_EQ(session.last_stats().prefill_tokens, 1) << "all but the last token was held";
      session.reset();
      expect_as_new();
      EXPECT_EQ(session.last_stats().prefill_tokens, 40);
    }
  }
}

TEST(Session, StopsAtEndTokensMaximumAndContext) {
  const Engine engine = tiny();
  const std::vector<std::vector<int>> prompts{kPrompt};
  const auto free = engine.session().generate(prompts, greedy(10)).front();
  EXPECT_EQ(free.finish, FinishReason::kMaxTokens);
  GenerateOptions options = greedy(10);
  options.ignore_eos = false;
  options.eos_tokens = {free.tokens[0]};
  EXPECT_EQ(engine.session().generate(prompts, options).front().finish, FinishReason::kEndOfText);
  const auto full = engine.session({.context = 8}).generate(prompts, greedy(10)).front();
  EXPECT_EQ(full.finish, FinishReason::kContextFull);
  EXPECT_EQ(full.tokens.size(), 3U);
}

TEST(Session, EndsASequenceWhoseStepIsRefused) {
  int steps = 0;
  const std::vector<std::vector<int>> prompts{kPrompt};
  const auto completion =
      tiny().session().generate(prompts, greedy(10), [&](const Step&) { return ++steps < 3; }).front();
  EXPECT_EQ(completion.finish, FinishReason::kCancelled);
  EXPECT_EQ(completion.tokens.size(), 3U);
}

TEST_P(SessionOnDevice, EndsAllSequencesWhereReadingIsRefused) {
  const Engine engine = tiny(DType::kF32, GetParam());
  Session session = engine.session({.context = 8, .sequences = 3});  // steps of 8 tokens
  const std::vector<std::vector<int>> prompts{{2, 17, 9, 33, 5, 6}, {2, 18, 9, 33, 5, 6}, {2, 19, 9, 33, 5, 6}};
  std::vector<std::pair<int, int>> read;
  const auto refuse_second = [&](int done, int total) {
    read.emplace_back(done, total);
    return read.size() < 2;
  };
  const auto no_step = [](const Step&) {
    ADD_FAILURE() << "nothing is generated";
    return true;
  };
  for (const Completion& completion : session.generate(prompts, greedy(2), no_step, refuse_second)) {
    EXPECT_EQ(completion.finish, FinishReason::kCancelled);
    EXPECT_TRUE(completion.tokens.empty());
  }
  EXPECT_EQ(read, (std::vector<std::pair<int, int>>{{6, 18}, {12, 18}}));
  EXPECT_EQ(session.last_stats().prefill_tokens, 12);

  const auto completed = session.generate(prompts, greedy(2));
  EXPECT_EQ(session.last_stats().prefill_tokens, 1 + 1 + 6) << "what was read is held";
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const auto alone = engine.session({.context = 8}).generate(std::span(prompts).subspan(i, 1), greedy(2)).front();
    EXPECT_EQ(completed[i].tokens, alone.tokens);
  }
}

TEST(Session, RefusesWhatItCannotReadInASentence) {
  const Engine engine = tiny();
  Session session = engine.session({.context = 4});
  const auto generate = [&](std::vector<int> prompt) {
    const std::vector<std::vector<int>> prompts{std::move(prompt)};
    return error_of([&] { session.generate(prompts, greedy(1)); });
  };
  EXPECT_EQ(generate({}), "prompt: expected at least one token, found none");
  EXPECT_EQ(generate({2, 3, 4, 5, 6}), "prompt: expected at most 4 tokens (the context), found 5");
  EXPECT_EQ(generate({2, 1000}), "prompt: expected token ids from 0 to 95, found 1000");
  EXPECT_EQ(generate({2, -1}), "prompt: expected token ids from 0 to 95, found -1");
  EXPECT_NE(error_of([&] { session.generate("text", greedy(1)); }).find("has no tokenizer"), std::string::npos);
  EXPECT_NE(error_of([&] { engine.session({.context = 100000}); }).find("context: expected"), std::string::npos);
  for (const int sequences : {0, 65536, std::numeric_limits<int>::max()}) {
    EXPECT_NE(error_of([&] { engine.session({.sequences = sequences}); }).find("sequences: expected 1 to 65535"),
              std::string::npos);
  }
}

TEST_P(SessionOnDevice, TakesTheMemoryThatWasPredicted) {
  for (const std::string name : {"pre_norm", "post_norm_350m", "galactica_no_bias", "untied_head"}) {
    for (const auto scheme :
         {Scheme::kNone, Scheme::kInt8, Scheme::kInt8Decomp, Scheme::kNf4, Scheme::kFp4Dq, Scheme::kInt4Asym}) {
      const LoadOptions load{.scheme = scheme, .compute_dtype = DType::kF16, .device = GetParam(), .threads = 2};
      const SessionOptions options{.context = 32, .sequences = 2};
      const MemoryLedger predicted = predict_memory(golden_model(name), load, options);
      const MemoryLedger measured = Engine::open(golden_model(name), load).session(options).memory();
      EXPECT_EQ(predicted.bytes, measured.bytes) << name << " " << to_string(scheme);
      EXPECT_EQ(predicted.huggingface, measured.huggingface);
      EXPECT_EQ(predicted.parameters, measured.parameters);
    }
  }
}

TEST(Memory, OfA350mShapeIsWhatTheSeedPrinted) {
  const auto predict = [](Scheme scheme, DType dtype) {
    return predict_memory("synthetic:opt-350m", {.scheme = scheme, .compute_dtype = dtype});
  };
  EXPECT_EQ(predict(Scheme::kNone, DType::kF32).huggingface, 1'324'785'664U);
  EXPECT_EQ(predict(Scheme::kNone, DType::kF16).huggingface, 662'392'832U);
  EXPECT_EQ(predict(Scheme::kInt8, DType::kF16).huggingface, 359'354'368U);
  for (const Scheme scheme : {Scheme::kFp4, Scheme::kNf4, Scheme::kFp4Dq, Scheme::kNf4Dq}) {
    EXPECT_EQ(predict(scheme, DType::kF16).huggingface, 207'835'136U);
  }
  // The true figures: absmax of 4,734,976 blocks; nested, also an absmax of 256 of those and an offset for each matrix.
  EXPECT_EQ(predict(Scheme::kNf4, DType::kF16).weights(), 207'835'136U + 18'939'904U);  // 226.8 MB
  EXPECT_EQ(predict(Scheme::kNf4Dq, DType::kF16).weights(), 207'835'136U + 4'734'976U + 73'984U + 146U * 4U);  // 212.6
  EXPECT_EQ(predict(Scheme::kInt8, DType::kF16).weights(), 359'354'368U + 890'880U);
  // A scale of two bytes for each 128 weights, and a zero point of one.
  EXPECT_EQ(predict(Scheme::kInt4, DType::kF16).weights(), 207'835'136U + 2U * 2'367'488U);  // 212.6
  EXPECT_EQ(predict(Scheme::kInt4Asym, DType::kF16).weights(), 207'835'136U + 3U * 2'367'488U);
}

TEST(Memory, SaysBeforeLoadingThatAModelDoesNotFit) {
  const std::string sentence = error_of([] { Engine::open("synthetic:opt-175b", {.compute_dtype = DType::kF32}); });
  EXPECT_NE(sentence.find("synthetic:opt-175b needs 349"), std::string::npos) << sentence;
  EXPECT_NE(sentence.find("but the cpu has "), std::string::npos) << sentence;
  const Engine engine = Engine::open(bundled_model());
  EXPECT_NE(error_of([&] { engine.session({.sequences = 65535}); }).find("a session of 65535 x"), std::string::npos);
}

TEST(Memory, OfAGpuIsWhatTheLedgerSays) {
  if (!has_cuda()) GTEST_SKIP() << "no GPU";
  const LoadOptions load{.scheme = Scheme::kNf4Dq, .compute_dtype = DType::kF16, .device = Device::kCuda};
  const std::vector<std::vector<int>> prompts{kPrompt};
  // Bytes that free memory shrinks by, and that the ledger has on the GPU: all but the tokenizer and 16 rows of logits.
  const auto open = [&](std::uint64_t& used, std::uint64_t& counted) {
    const std::uint64_t before = available_memory(Device::kCuda);
    const Engine engine = Engine::open("synthetic:opt-350m", load);
    Session session = engine.session({.context = 16});
    session.generate(prompts, greedy(4));
    const std::uint64_t after = available_memory(Device::kCuda);
    session.generate(prompts, greedy(10));
    EXPECT_EQ(available_memory(Device::kCuda), after) << "tokens take none";
    const MemoryLedger ledger = session.memory();
    used = before - after;
    counted = ledger.total() - std::uint64_t{16} * 50272 * sizeof(float);
    EXPECT_GT(ledger.device_overhead, 0U);
    return ledger.device_overhead;
  };
  std::uint64_t used = 0, counted = 0;
  const std::uint64_t overhead = open(used, counted);  // the driver loads kernels as they are first used
  EXPECT_GE(used, counted);
  EXPECT_LE(used, counted + overhead);
  open(used, counted);
  EXPECT_GE(used, counted);
  EXPECT_LE(used, counted + (std::uint64_t{6} << 20))
      << "the two stretches end on a page of 2 MiB, and buffers begin on 256 bytes";
}

TEST(Engine, RefusesWhatItCannotOpen) {
  EXPECT_NE(error_of([] { Engine::open("/no/such/model"); }).find("/no/such/model: no such checkpoint directory"),
            std::string::npos);
  EXPECT_NE(error_of([] { Engine::open("synthetic:opt-9b"); }).find("expected one of synthetic:opt-125m"),
            std::string::npos);
  if (!has_cuda()) {
    const std::string sentence = error_of([] { Engine::open(golden_model("pre_norm"), {.device = Device::kCuda}); });
    EXPECT_TRUE(sentence.starts_with("device cuda: ")) << sentence;
  }
  EXPECT_NE(error_of([] { Engine::open(golden_model("pre_norm"), {.blocksize = 60}); }).find("blocksize: expected"),
            std::string::npos);
  EXPECT_EQ(error_of([] { Engine::open(golden_model("pre_norm"), {.int8_activations = true}); }),
            "8-bit activations: expected weights of scheme int8, found none");
  EXPECT_EQ(
      error_of([] { predict_memory(golden_model("pre_norm"), {.device = Device::kCuda, .int8_activations = true}); }),
      "8-bit activations: expected device cpu, found cuda");
}

TEST(Engine, ReportsProgressUpToTheTotal) {
  for (const std::string name : {"pre_norm", "post_norm_350m", "galactica_no_bias", "untied_head"}) {
    for (const Scheme scheme : {Scheme::kNone, Scheme::kInt8, Scheme::kNf4Dq}) {
      std::vector<std::uint64_t> reports;
      std::uint64_t all = 0;
      const LoadOptions load{.scheme = scheme, .threads = 1};
      Engine::open(golden_model(name), load, [&](std::uint64_t done, std::uint64_t total) {
        reports.push_back(done);
        all = total;
      });
      ASSERT_FALSE(reports.empty()) << name;
      EXPECT_TRUE(std::ranges::is_sorted(reports)) << name;
      EXPECT_EQ(reports.back(), all) << name << " " << to_string(scheme);
      EXPECT_EQ(all, predict_memory(golden_model(name), load).weights()) << name << " " << to_string(scheme);
    }
  }
}

TEST(Engine, ComputesInTheCheckpointsOwnDtypeByDefault) {
  EXPECT_EQ(Engine::open(golden_model("pre_norm")).info().compute_dtype, DType::kF32);
  EXPECT_EQ(Engine::open(golden_model("pre_norm_fp16")).info().compute_dtype, DType::kF16);
  EXPECT_EQ(Engine::open(golden_model("pre_norm_bf16")).info().compute_dtype, DType::kBF16);
}

TEST_P(SessionOnDevice, RunsSyntheticModelsInEveryScheme) {
  for (const Scheme scheme : kSchemes) {
    const Engine engine = Engine::open("synthetic:opt-125m", {.scheme = scheme, .device = GetParam()});
    Session session = engine.session({.context = 16});
    const std::vector<std::vector<int>> prompts{kPrompt};
    const auto completion = session.generate(prompts, greedy(2)).front();
    EXPECT_EQ(completion.tokens.size(), 2U);
    EXPECT_TRUE(std::isfinite(session.logits(kPrompt)[12345])) << to_string(scheme);
    EXPECT_EQ(session.memory().bytes,
              predict_memory("synthetic:opt-125m", {.scheme = scheme, .device = GetParam()}, {.context = 16}).bytes);
  }
}

}  // namespace
}  // namespace nibble::testing
