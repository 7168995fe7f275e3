// nibble logits, quantize and inspect: what they read and write.
#include <gtest/gtest.h>

#include <cmath>

#include "program.h"

namespace nibble::testing {
namespace {

const std::string kTiny = golden_model("pre_norm");

/// A tensor of a safetensors file, of 4 or 8-byte elements.
struct Tensor {
  std::vector<std::size_t> shape;
  std::string dtype;
  std::string data;

  template <class T>
  T at(std::size_t i) const {
    T value;
    std::memcpy(&value, data.data() + i * sizeof(T), sizeof(T));
    return value;
  }
};

Tensor read_tensor(const std::string& file, const std::string& name) {
  const std::string text = read_file(file);
  std::uint64_t size = 0;
  std::memcpy(&size, text.data(), sizeof size);
  const Json entry = Json::parse(text.substr(8, size)).at(name);
  const std::vector<std::size_t> offsets = entry.at("data_offsets");
  return {entry.at("shape"), entry.at("dtype"), text.substr(8 + size + offsets[0], offsets[1] - offsets[0])};
}

TEST(Logits, AreThoseOfTransformers) {
  const TempDir folder;
  const std::string file = folder / "logits.safetensors";
  const Tensor tokens = read_tensor(kTiny + "/expected.safetensors", "tokens.0");
  const Tensor expected = read_tensor(kTiny + "/expected.safetensors", "logits.0");
  std::string ids;
  for (std::size_t i = 0; i < tokens.data.size() / 8; ++i) {
    ids += (i == 0 ? "" : ",") + std::to_string(tokens.at<std::int64_t>(i));
  }
  EXPECT_EQ(output({"logits", "-m", kTiny, "--tokens", ids, "-o", file}), file + ": logits [11, 96], fp32\n");
  const Tensor found = read_tensor(file, "logits");
  EXPECT_EQ(found.dtype, "F32");
  ASSERT_EQ(found.shape, expected.shape);
  for (std::size_t i = 0; i < found.data.size() / sizeof(float); ++i) {
    ASSERT_NEAR(found.at<float>(i), expected.at<float>(i), 1e-4F * (1 + std::abs(expected.at<float>(i)))) << i;
  }
}

TEST(Logits, LeaveOutMaskedTokens) {
  const TempDir folder;
  output({"logits", "-m", kTiny, "--tokens", "1,2,17", "--attention-mask", "0,1,1", "-o", folder / "masked"});
  output({"logits", "-m", kTiny, "--tokens", "2,17", "-o", folder / "alone"});
  const Tensor masked = read_tensor(folder / "masked", "logits");
  EXPECT_EQ(masked.data.substr(0, 96 * 4), std::string(96 * 4, '\0'));
  EXPECT_EQ(masked.data.substr(96 * 4), read_tensor(folder / "alone", "logits").data);
}

TEST(Quantize, WritesACheckpointThatGeneratesAsOneQuantizedAtLoad) {
  const TempDir folder;
  for (const std::string scheme : {"int8", "nf4-dq"}) {
    const std::string quantized = folder / scheme;
    const Result result = run({"quantize", kTiny, quantized, "--scheme", scheme});
    ASSERT_EQ(result.code, 0) << result.err;
    EXPECT_TRUE(contains(result.out, quantized + ": " + scheme + ", weights ")) << result.out;
    EXPECT_TRUE(contains(result.out, "times smaller")) << result.out;
    EXPECT_TRUE(contains(result.err, "quantizing 50%\n")) << result.err;
    EXPECT_TRUE(result.err.ends_with("quantizing 100%\n")) << result.err;
    const Arguments prompt{"--tokens", "2,17,9,33", "-n", "12", "--ignore-eos"};
    Arguments written{"generate", "-m", quantized};
    Arguments at_load{"generate", "-m", kTiny, "--scheme", scheme};
    written.insert(written.end(), prompt.begin(), prompt.end());
    at_load.insert(at_load.end(), prompt.begin(), prompt.end());
    EXPECT_EQ(output(written), output(at_load));
  }
  EXPECT_EQ(run({"quantize", kTiny, folder / "int8", "--scheme", "nf4"}).code, 1) << "it exists";
}

TEST(Quantize, LeavesNothingWhereAFileCannotBeWrittenWhole) {
  const TempDir folder;
  const std::string source = folder / "source";
  std::filesystem::copy(kTiny, source);
  write_file(source + "/README.md", std::string(1 << 20, '.'));
  // Files may have so many blocks of 512 bytes: too few for the weights; enough for them but not for what is copied.
  for (const auto& [blocks, file] : {std::pair{"1", "cannot reserve its"}, {"1000", "README.md: cannot reserve its"}}) {
    const std::string command = std::string("ulimit -f ") + blocks + "; " + NIBBLE_CLI + " quantize " + source + " " +
                                (folder / "out") + " --scheme nf4 --quiet 2>" + (folder / "err");
    EXPECT_EQ(WEXITSTATUS(std::system(command.c_str())), 1) << blocks;
    const std::string sentence = read_file(folder / "err");
    EXPECT_TRUE(sentence.starts_with("nibble: " + (folder / ".out"))) << sentence;
    EXPECT_TRUE(contains(sentence, file)) << sentence;
    for (const auto& left : std::filesystem::directory_iterator(folder / ".")) {
      EXPECT_TRUE(left.path().filename() == "source" || left.path().filename() == "err") << left.path();
    }
  }
}

TEST(Quantize, SaysHowManyTimesLargerAModelBecame) {
  const TempDir folder;
  EXPECT_TRUE(contains(
      output({"quantize", golden_model("pre_norm_fp16"), folder / "out", "--scheme", "none", "--dtype", "fp32"}),
      ": 2.00 times larger\n"));
}

TEST(Quantize, LeavesNothingWhereASignalEndsIt) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    const TempDir folder;
    Process process({"quantize", kBundled, folder / "out", "--scheme", "none", "-t", "1"});
    const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (std::filesystem::is_empty(folder / ".") && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ::kill(process.pid(), signal);
    const Result result = process.wait();
    EXPECT_EQ(result.code, 128 + signal);
    EXPECT_TRUE(result.err.ends_with("nibble: interrupted\n")) << result.err;
    EXPECT_TRUE(std::filesystem::is_empty(folder / "."));
  }
}

TEST(Quantize, SplitsFilesAndKeepsQuiet) {
  const TempDir folder;
  const Result result =
      run({"quantize", kTiny, folder / "out", "--scheme", "fp4", "--max-shard-size", "20KB", "--quiet", "-t", "1"});
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.out + result.err, "");
  EXPECT_TRUE(std::filesystem::exists(folder / "out/model.safetensors.index.json"));
}

TEST(Inspect, ComparesSchemes) {
  const std::string text = output({"inspect", "-m", "synthetic:opt-350m"});
  for (const char* part :
       {"none   int8    fp4    nf4  fp4-dq  nf4-dq   int4  int4-asym", "linear weights", "quantization state", "uint8",
        "662.4  359.4  207.8  207.8", "226.8", "[1024, 512]", "[262144, 1]", "x24", "two 4-bit codes"}) {
    EXPECT_TRUE(contains(text, part)) << part << " is not in\n" << text;
  }
  EXPECT_TRUE(contains(text, "decoder.layers.0.fc1.weight"));
  EXPECT_FALSE(contains(text, "decoder.layers.1.")) << "layers that repeat are shown once";
  EXPECT_FALSE(contains(output({"inspect", "-m", kTiny, "--scheme", "int8"}), "nf4"));
}

TEST(Inspect, ReportsParametersAsJson) {
  const Json document = json_output({"inspect", "-m", "synthetic:opt-350m", "--scheme", "nf4"});
  ASSERT_EQ(document.at("schemes").size(), 1U);
  const Json& scheme = document.at("schemes").at(0);
  EXPECT_EQ(scheme.at("memory").at("huggingface"), 207'835'136U);
  for (const Json& parameter : scheme.at("parameters")) {
    if (parameter.at("name") != "decoder.project_in.weight") continue;
    EXPECT_EQ(parameter.at("shape"), Json({1024, 512}));
    EXPECT_EQ(parameter.at("stored_shape"), Json({262144, 1}));
    EXPECT_EQ(parameter.at("bytes"), 262144);
    return;
  }
  ADD_FAILURE() << "project_in is not listed";
}

TEST(Inspect, KnowsTheSchemeOfAQuantizedCheckpoint) {
  const std::vector<std::pair<std::string, std::string>> checkpoints{
      {"pre_norm_fp16_int8", "int8"},       {"pre_norm_fp16_fp4", "fp4"},  {"pre_norm_fp16_fp4_dq", "fp4-dq"},
      {"pre_norm_fp16_nf4", "nf4"},         {"whole_32s_int4", "int4"},    {"pre_norm_fp16_nf4_dq", "nf4-dq"},
      {"whole_32s_int4_asym", "int4-asym"}, {"whole_32s_awq", "int4-asym"}};
  for (const auto& [checkpoint, scheme] : checkpoints) {
    const Arguments arguments{"inspect", "-m", golden_model(checkpoint)};
    EXPECT_TRUE(contains(output(arguments), "parameter under " + scheme + " ")) << checkpoint;
    const Json schemes = json_output(arguments).at("schemes");
    ASSERT_EQ(schemes.size(), 2U) << checkpoint << ": what it cannot be loaded as is not shown";
    EXPECT_EQ(schemes.at(0).at("scheme"), "none");
    EXPECT_EQ(schemes.at(1).at("scheme"), scheme);
  }
}

TEST(Inspect, ShowsAWeightBeforeAndAfter) {
  const Arguments arguments{"inspect", "-m", kTiny, "--tensor", "model.decoder.layers.0.fc1.weight", "--scheme"};
  for (const auto& [scheme, levels] : std::vector<std::pair<std::string, std::size_t>>{{"nf4", 16}, {"int8", 255}}) {
    Arguments with_scheme = arguments;
    with_scheme.push_back(scheme);
    const Json report = json_output(with_scheme);
    ASSERT_EQ(report.at("levels").size(), levels);
    std::uint64_t weights = 0;
    for (const std::uint64_t count : report.at("histogram")) weights += count;
    EXPECT_EQ(weights, 48U * 64U);
    double largest = 0;
    for (std::size_t i = 0; i < report.at("first_values").size(); ++i) {
      largest = std::max(
          largest, std::abs(report.at("first_values")[i].get<double>() - report.at("first_decoded")[i].get<double>()));
    }
    EXPECT_GT(largest, 0.0);
    EXPECT_LE(largest, report.at("max_error").get<double>());
    EXPECT_GT(report.at("snr_db").get<double>(), 15.0);
    const std::string text = output(with_scheme);
    for (const char* part :
         {"before", "after", "code", "first bytes", "RMS", " dB", "weights at each level", "+1.0000"}) {
      EXPECT_TRUE(contains(text, part)) << part << " is not in\n" << text;
    }
  }
}

TEST(Inspect, DrawsTheCodesThatShareAByte) {
  const Arguments arguments{"inspect", "-m", kTiny, "--tensor", "decoder.layers.0.fc1", "--scheme"};
  Arguments nf4 = arguments;
  nf4.emplace_back("nf4");
  const Json report = json_output(nf4);
  const int byte = report.at("first_bytes").at(0);
  char drawn[64];
  std::snprintf(drawn, sizeof drawn, "first bytes   %3d = 0x%02x", byte, static_cast<unsigned>(byte));
  const std::string text = output(nf4);
  EXPECT_TRUE(contains(text, drawn)) << text;
  std::snprintf(drawn, sizeof drawn, "hold codes     %2d | %2d", byte / 16, byte % 16);
  EXPECT_TRUE(contains(text, drawn)) << text;
  Arguments int8 = arguments;
  int8.emplace_back("int8");
  EXPECT_FALSE(contains(output(int8), "hold codes"));
}

TEST(Inspect, DrawsWithWhatTheTerminalCanShow) {
  const std::string command = program() + " inspect -m " + kTiny + " --tensor decoder.layers.0.fc1 ";
  const TempDir folder;
  const auto draw = [&](const std::string& locale) {
    EXPECT_EQ(std::system(("LC_ALL=" + locale + " " + command + ">" + (folder / "out")).c_str()), 0);
    return read_file(folder / "out");
  };
  EXPECT_TRUE(contains(draw("C"), "% ####"));
  EXPECT_TRUE(contains(draw("C.UTF-8"), "% ██"));
}

}  // namespace
}  // namespace nibble::testing
