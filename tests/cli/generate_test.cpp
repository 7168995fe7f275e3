#include <gtest/gtest.h>

#include "program.h"

namespace nibble::testing {
namespace {

const std::string kPrompt = "Once upon a time, there was a little girl who";

Arguments bundled(Arguments more) {
  more.insert(more.begin(), {"generate", "-m", kBundled, "-t", "2"});
  return more;
}

Arguments golden(const std::string& name, Arguments more) {
  more.insert(more.begin(), {"generate", "-m", golden_model(name), "-t", "2"});
  return more;
}

TEST(Generate, ContinuesAPromptTheSameWayEachTime) {
  const std::string text = output(bundled({"-p", kPrompt, "-n", "20"}));
  EXPECT_TRUE(text.starts_with(kPrompt + " ")) << text;
  EXPECT_TRUE(text.ends_with("\n"));
  EXPECT_EQ(output(bundled({"-p", kPrompt, "-n", "20"})), text);
}

TEST(Generate, ShowsSpeedAndMemoryOnStandardError) {
  const Result result = run(bundled({"-p", kPrompt, "-n", "4"}));
  for (const char* part : {"[ Prompt: ", " t/s", "First token: ", "predicted", "measured", "linear weights", "KV cache",
                           "Hugging Face would print 18.0 MB"}) {
    EXPECT_TRUE(contains(result.err, part)) << part << " is not in " << result.err;
  }
  EXPECT_FALSE(contains(result.out, "t/s"));
}

TEST(Generate, CanLeaveOutThePrompt) {
  const std::string whole = output(bundled({"-p", kPrompt, "-n", "8"}));
  EXPECT_EQ(kPrompt + output(bundled({"-p", kPrompt, "-n", "8", "--no-display-prompt"})), whole);
}

TEST(Generate, ReadsPromptsFromFilesAndStandardInput) {
  const TempDir folder;
  const std::string expected = output(bundled({"-p", kPrompt, "-n", "8"}));
  EXPECT_EQ(output(bundled({"-n", "8"}), kPrompt + "\n"), expected) << "one line end is not part of the prompt";
  EXPECT_EQ(output(bundled({"-f", write_file(folder / "prompt", kPrompt), "-n", "8"})), expected);
}

TEST(Generate, TakesIdsInPlaceOfTextWithoutATokenizer) {
  const Json document = json_output(golden("pre_norm", {"--tokens", "2,17,9", "-n", "6"}));
  const Json& completion = document.at("completions").at(0);
  EXPECT_EQ(completion.at("prompt_ids"), Json({2, 17, 9}));
  ASSERT_EQ(completion.at("ids").size(), 6U);
  std::string expected = "2,17,9";
  for (const int id : completion.at("ids")) expected += "," + std::to_string(id);
  EXPECT_EQ(output(golden("pre_norm", {"--tokens", "2,17,9", "-n", "6"})), expected + "\n");
  EXPECT_EQ("2,17,9," + output(golden("pre_norm", {"--tokens", "2,17,9", "-n", "6", "--no-display-prompt"})),
            expected + "\n");
}

TEST(Generate, TakesIdsOfATextAsTheText) {
  const Json text = json_output(bundled({"-p", kPrompt, "-n", "8"})).at("completions").at(0);
  std::string ids;
  for (const int id : text.at("prompt_ids")) ids += (ids.empty() ? "" : ",") + std::to_string(id);
  EXPECT_EQ(json_output(bundled({"--tokens", ids, "-n", "8"})).at("completions").at(0), text);
}

TEST(Generate, ReadsInvalidUtf8AsReplacementCharacters) {
  const auto completion = [](const char* prompt) {
    return json_output(bundled({"-p", prompt, "-n", "4"})).at("completions").at(0);
  };
  EXPECT_EQ(completion("caf\xe9 \xff a"), completion("caf\uFFFD \uFFFD a"));
}

TEST(Generate, ReportsEverythingAsJson) {
  const Json document = json_output(bundled({"-p", kPrompt, "-n", "5", "--logprobs", "2"}));
  EXPECT_EQ(document.at("model").at("scheme"), "nf4");
  EXPECT_EQ(document.at("model").at("layers"), 8);
  const Json& completion = document.at("completions").at(0);
  EXPECT_EQ(completion.at("ids").size(), 5U);
  EXPECT_EQ(completion.at("finish"), "max_tokens");
  EXPECT_EQ(kPrompt + completion.at("text").get<std::string>() + "\n", output(bundled({"-p", kPrompt, "-n", "5"})));
  ASSERT_EQ(completion.at("logprobs").size(), 5U);
  for (std::size_t i = 0; i < 5; ++i) {
    const Json& token = completion.at("logprobs").at(i);
    EXPECT_EQ(token.at("id"), completion.at("ids").at(i));
    EXPECT_LE(token.at("logprob").get<double>(), 0.0);
    ASSERT_EQ(token.at("likeliest").size(), 2U);
    EXPECT_GE(token.at("likeliest").at(0).at("logprob"), token.at("likeliest").at(1).at("logprob"));
  }
  const Json& stats = document.at("stats");
  EXPECT_EQ(stats.at("prompt_tokens"), completion.at("prompt_ids").size());
  EXPECT_EQ(stats.at("decode_tokens"), 4);
  EXPECT_GT(stats.at("first_token_seconds").get<double>(), 0.0);
  EXPECT_GT(document.at("load_seconds").get<double>(), 0.0);
  const Json& memory = document.at("memory");
  for (const char* key : {"weights", "total", "huggingface", "KV_cache", "parameters"}) {
    EXPECT_EQ(memory.at("predicted").at(key), memory.at("measured").at(key)) << key;
    EXPECT_GT(memory.at("measured").at(key).get<std::uint64_t>(), 0U) << key;
  }
}

TEST(Generate, StopsBeforeAStopString) {
  const std::string free = json_output(bundled({"-p", kPrompt, "-n", "30"})).at("completions").at(0).at("text");
  const std::string stop = free.substr(free.size() / 2, 4);
  const Json cut =
      json_output(bundled({"-p", kPrompt, "-n", "30", "-r", "never to be found", "-r", stop})).at("completions").at(0);
  EXPECT_EQ(cut.at("finish"), "stop_string");
  EXPECT_EQ(cut.at("text"), free.substr(0, free.find(stop)));
}

TEST(Generate, DrawsTheSameForTheSameSeed) {
  const auto draw = [](const char* seed) {
    return output(bundled({"-p", kPrompt, "-n", "20", "--temp", "1.2", "--top-k", "0", "-s", seed}));
  };
  const std::string first = draw("7");
  EXPECT_EQ(draw("7"), first);
  EXPECT_NE(draw("8"), first);
  const Arguments drawn = bundled({"-p", kPrompt, "-n", "1", "-s", "-1"});
  EXPECT_NE(json_output(drawn).at("seed"), json_output(drawn).at("seed")) << "-1 draws a seed and says which";
}

TEST(Generate, EndsWhereTheContextEnds) {
  const Json document = json_output(bundled({"-p", kPrompt, "-n", "-1", "--ignore-eos", "-c", "16"}));
  const Json& completion = document.at("completions").at(0);
  EXPECT_EQ(completion.at("finish"), "context_full");
  EXPECT_EQ(completion.at("prompt_ids").size() + completion.at("ids").size(), 16U);
  EXPECT_TRUE(contains(run(bundled({"-p", kPrompt, "-n", "-1", "--ignore-eos", "-c", "16"})).err,
                       "the context of 16 tokens is full"));
}

TEST(Generate, TakesEachLineAsAPromptOfItsOwn) {
  const TempDir folder;
  const std::vector<std::string> prompts{"The dog", "Once upon a time", "It was a dark and stormy night when"};
  std::string text;
  for (const std::string& prompt : prompts) text += prompt + "\n";
  const std::string file = write_file(folder / "prompts", text);
  const Json completions = json_output(bundled({"-f", file, "--lines", "-n", "12", "--temp", "0"})).at("completions");
  ASSERT_EQ(completions.size(), 3U);
  std::string expected;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    EXPECT_EQ(completions[i],
              json_output(bundled({"-p", prompts[i], "-n", "12", "--temp", "0"})).at("completions").at(0));
    expected += "> " + prompts[i] + "\n" + completions[i].at("text").get<std::string>() + "\n\n";
  }
  EXPECT_EQ(output(bundled({"-f", file, "--lines", "-n", "12", "--temp", "0"})), expected);
}

TEST(Generate, QuantizesWhileLoading) {
  const Json document = json_output(golden(
      "pre_norm", {"--tokens", "2,17,9", "-n", "2", "--scheme", "fp4-dq", "--dtype", "bf16", "--embedding", "int8"}));
  EXPECT_EQ(document.at("model").at("scheme"), "fp4-dq");
  EXPECT_EQ(document.at("model").at("compute_dtype"), "bf16");
  EXPECT_EQ(document.at("model").at("embedding"), "int8");
}

TEST(Generate, StopsAtCtrlCWithWhatThereIs) {
  Process process(bundled({"-p", kPrompt, "-n", "-1", "--ignore-eos"}));
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (process.out().size() <= kPrompt.size() && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  ::kill(process.pid(), SIGINT);
  const Result result = process.wait();
  EXPECT_EQ(result.code, 130) << result.err;
  EXPECT_TRUE(result.out.starts_with(kPrompt));
  EXPECT_TRUE(result.out.ends_with("\n"));
  EXPECT_TRUE(contains(result.err, "Generation: ")) << result.err;
}

TEST(Generate, StopsAtCtrlCWhileThePromptIsRead) {
  std::string ids = "2";
  for (int i = 1; i < 600; ++i) ids += ",5";  // more than one step
  Process process({"generate", "-m", "synthetic:opt-125m", "--scheme", "nf4", "--tokens", ids});
  process.wait_until_it_catches(SIGINT);
  ::kill(process.pid(), SIGINT);
  const Result result = process.wait();
  EXPECT_EQ(result.code, 130) << result.err;
  EXPECT_EQ(result.out, "\n") << "no token was generated";
}

TEST(DryRun, ShowsWhatTheSeedMeasured) {
  const auto memory = [](Arguments more) {
    more.insert(more.begin(), {"generate", "-m", "synthetic:opt-350m", "--dry-run"});
    return json_output(more).at("memory").at("predicted");
  };
  EXPECT_EQ(memory({"--scheme", "none", "--dtype", "fp32"}).at("huggingface"), 1'324'785'664U);
  EXPECT_EQ(memory({"--scheme", "int8"}).at("huggingface"), 359'354'368U);
  for (const char* scheme : {"fp4", "nf4"}) EXPECT_EQ(memory({"--scheme", scheme}).at("huggingface"), 207'835'136U);

  const auto text = [](Arguments more) {
    more.insert(more.begin(), {"generate", "-m", "synthetic:opt-350m", "--dry-run"});
    return output(more);
  };
  EXPECT_TRUE(contains(text({"--scheme", "none", "--dtype", "fp32"}), "Hugging Face would print 1324.8 MB"));
  EXPECT_TRUE(contains(text({"--scheme", "int8"}), "Hugging Face would print 359.4 MB"));
  const std::string nf4 = text({"--scheme", "nf4"});
  EXPECT_TRUE(contains(nf4, "Hugging Face would print 207.8 MB")) << nf4;
  EXPECT_TRUE(contains(nf4, "226.8 MB")) << nf4;
  // 212.64 MB of codes and absmax, and the offset that each of the 146 matrices' absmax are stored from.
  const Json nested = memory({"--scheme", "nf4-dq"});
  constexpr std::uint64_t kOffsets = 146 * sizeof(float);
  EXPECT_EQ(
      nested.at("huggingface").get<std::uint64_t>() + nested.at("quantization_state").get<std::uint64_t>() - kOffsets,
      212'644'096U);
}

TEST(DryRun, CountsTheCacheOfEverySequence) {
  const auto cache = [](Arguments more) {
    more.insert(more.begin(), {"generate", "-m", "synthetic:opt-125m", "--dry-run"});
    return json_output(more).at("memory").at("predicted").at("KV_cache").get<std::uint64_t>();
  };
  const std::uint64_t one = cache({"-c", "100"});
  EXPECT_EQ(one, 2U * 12 * 100 * 768 * 2) << "keys and values, layers, tokens, width, bytes";
  EXPECT_EQ(cache({"-c", "100", "-np", "5"}), 5 * one);
  EXPECT_EQ(cache({"-c", "200", "--dtype", "fp32"}), 4 * one);
}

TEST(DryRun, SaysWhetherTheModelFits) {
  EXPECT_TRUE(contains(output({"generate", "-m", "synthetic:opt-125m", "--dry-run"}), "It fits: the cpu has "));
  EXPECT_TRUE(contains(output({"generate", "-m", "synthetic:opt-175b", "--dry-run", "-np", "1000"}),
                       "It does not fit: the cpu has "));
}

TEST(DryRun, NeedsNoGpu) {
  const Result result = run({"generate", "-m", "synthetic:opt-66b", "--dry-run", "--device", "cuda"});
  const Result json = run({"generate", "-m", "synthetic:opt-66b", "--dry-run", "--device", "cuda", "--json"});
  if (contains(result.err, "was built without CUDA")) return;  // then it is not known what kernels need beside weights
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(contains(result.out, "131439.4 MB")) << result.out;
  const bool known = contains(result.out, "the cuda has ");
  EXPECT_TRUE(known || contains(result.out, "Whether it fits is not known: device cuda: ")) << result.out;
  EXPECT_EQ(Json::parse(json.out).at("memory").at("available").is_null(), !known);
}

}  // namespace
}  // namespace nibble::testing
