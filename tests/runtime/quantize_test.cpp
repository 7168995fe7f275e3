// `quantize` and quantizing at load against what transformers + bitsandbytes saved (tests/golden/models).
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "golden.h"
#include "nibble/nibble.h"

namespace nibble::testing {
namespace {

namespace fs = std::filesystem;

/// A directory that is gone at the end of the test.
class Scratch {
 public:
  Scratch() : path_(fs::temp_directory_path() / ("nibble-quantize-" + std::to_string(::getpid()) + "-" + next())) {}
  ~Scratch() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  const fs::path& path() const { return path_; }

 private:
  static std::string next() {
    static int count = 0;
    return std::to_string(++count);
  }
  fs::path path_;
};

struct Case {
  std::string source, saved;
  Scheme scheme;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.saved; }

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const std::string source : {"pre_norm_fp16", "post_norm_350m", "odd_dims", "whole_32s"}) {
    for (const Scheme scheme : kSchemes) {
      std::string suffix(to_string(scheme));
      std::replace(suffix.begin(), suffix.end(), '-', '_');
      const std::string saved = source + "_" + suffix;
      if (fs::exists(golden_model(saved))) all.push_back({source, saved, scheme});
    }
  }
  return all;
}

/// Names that differ between a tied pair's two ends are compared once, under the table's name.
std::map<std::string, const TensorInfo*> by_name(const Checkpoint& checkpoint) {
  std::map<std::string, const TensorInfo*> result;
  for (const TensorInfo& info : checkpoint.tensors()) {
    if (info.name != "lm_head.weight") result.emplace(info.name, &info);
  }
  return result;
}

class Quantize : public ::testing::TestWithParam<Case> {};

TEST_P(Quantize, WritesTheBytesThatPeersWrite) {
  const Scratch scratch;
  quantize(golden_model(GetParam().source), scratch / "out", {.scheme = GetParam().scheme, .threads = 2});
  const Checkpoint ours = Checkpoint::open(scratch / "out");
  const Checkpoint theirs = Checkpoint::open(golden_model(GetParam().saved));
  const auto mine = by_name(ours);
  const auto wanted = by_name(theirs);
  ASSERT_EQ(mine.size(), wanted.size());
  for (const auto& [name, info] : wanted) {
    ASSERT_TRUE(mine.contains(name)) << name;
    const TensorInfo& found = *mine.at(name);
    EXPECT_EQ(found.dtype, info->dtype) << name;
    EXPECT_EQ(found.shape, info->shape) << name;
    const HostTensor a = ours.read(found);
    const HostTensor b = theirs.read(*info);
    ASSERT_EQ(a.data.size(), b.data.size()) << name;
    EXPECT_EQ(std::memcmp(a.data.data(), b.data.data(), a.data.size()), 0) << name;
  }
}

TEST_P(Quantize, AtLoadAndFromFileGiveTheSameLogits) {
  const Scratch scratch;
  quantize(golden_model(GetParam().source), scratch / "out", {.scheme = GetParam().scheme});
  const std::vector<int> tokens{2, 5, 9, 11, 3};
  const auto from_file = Engine::open(scratch / "out").session().logits(tokens);
  const auto at_load =
      Engine::open(golden_model(GetParam().source), {.scheme = GetParam().scheme}).session().logits(tokens);
  EXPECT_EQ(from_file, at_load);
}

TEST_P(Quantize, IsUndoneToTheValuesPeersDequantizeTo) {
  const Scratch scratch;
  quantize(golden_model(GetParam().saved), scratch / "out", {.scheme = Scheme::kNone});
  const Checkpoint plain = Checkpoint::open(scratch / "out");
  const Expected expected(GetParam().saved);
  int compared = 0;
  for (const auto& [name, info] : by_name(plain)) {
    const std::string golden = "dequantized_fp16." + name;
    if (!expected.has(golden)) continue;
    ++compared;
    EXPECT_EQ(info->dtype, DType::kF16) << name;
    const HostTensor found = plain.read(*info);
    EXPECT_TRUE(std::ranges::equal(found.data, expected.bytes(golden))) << name;
  }
  EXPECT_GT(compared, 0);
  EXPECT_EQ(Engine::open(scratch / "out").info().scheme, Scheme::kNone);
}

INSTANTIATE_TEST_SUITE_P(Saved, Quantize, ::testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.saved; });

/// The sentence that quantize() refuses with.
std::string refusal(const std::string& source, const std::string& destination, QuantizeOptions options = {}) {
  try {
    quantize(source, destination, options);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(QuantizeDirectory, Int4SaysItsGroupSize) {
  const Scratch scratch;
  quantize(golden_model("whole_32s"), scratch / "out", {.scheme = Scheme::kInt4, .blocksize = 32});
  const auto config = nlohmann::json::parse(std::ifstream(scratch / "out/config.json"))["quantization_config"];
  EXPECT_EQ(config["quant_method"], "gptq");
  EXPECT_EQ(config["group_size"], 32);
  const Engine engine = Engine::open(scratch / "out");
  EXPECT_EQ(engine.info().scheme, Scheme::kInt4);
  EXPECT_EQ(engine.session().memory().bytes, predict_memory(scratch / "out").bytes);
}

/// What config.json says of a checkpoint quantized to int4 when it is written again.
nlohmann::json rewritten_group_size(std::optional<int> blocksize, std::optional<int> again = {}) {
  const Scratch scratch;
  quantize(golden_model("whole_32s"), scratch / "once", {.scheme = Scheme::kInt4, .blocksize = blocksize});
  quantize(scratch / "once", scratch / "twice", {.scheme = Scheme::kInt4, .blocksize = again});
  return nlohmann::json::parse(std::ifstream(scratch / "twice/config.json"))["quantization_config"]["group_size"];
}

TEST(QuantizeDirectory, Int4WrittenAgainKeepsItsGroupSize) {
  EXPECT_EQ(rewritten_group_size({}), 128);  // one of its weights has rows longer than that
  EXPECT_EQ(rewritten_group_size(32), 32);
  EXPECT_EQ(rewritten_group_size(32, 32), 32);
  EXPECT_EQ(rewritten_group_size(4096), -1) << "AutoGPTQ's word for groups of a row";
  EXPECT_EQ(rewritten_group_size(4096, 2048), -1);
}

TEST(QuantizeDirectory, RefusesABlocksizeOtherThanTheStoredOne) {
  const Scratch scratch;
  quantize(golden_model("whole_32s"), scratch / "int4", {.scheme = Scheme::kInt4, .blocksize = 32});
  EXPECT_EQ(refusal(scratch / "int4", scratch / "out", {.scheme = Scheme::kInt4, .blocksize = 64}),
            "blocksize: expected 32, in which decoder.layers.0.self_attn.q_proj.weight is quantized already, found 64");
  EXPECT_EQ(
      refusal(golden_model("pre_norm_fp16_nf4"), scratch / "out", {.scheme = Scheme::kNf4, .blocksize = 128}),
      "blocksize: expected 64, in which decoder.layers.0.self_attn.q_proj.weight is quantized already, found 128");
  EXPECT_EQ(refusal(golden_model("pre_norm_fp16_nf4"), scratch / "out", {.scheme = Scheme::kNf4, .blocksize = 64}),
            "no error");
}

TEST(QuantizeDirectory, MayBeNamedWithASlashBehindIt) {
  const Scratch scratch;
  quantize(golden_model("pre_norm_fp16"), scratch / "out/", {.scheme = Scheme::kNf4});
  EXPECT_EQ(Engine::open(scratch / "out").info().scheme, Scheme::kNf4);
  const fs::directory_iterator made(scratch.path());
  EXPECT_EQ(std::distance(begin(made), end(made)), 1);
}

TEST(QuantizeDirectory, PassesOverLinksThatLeadNowhere) {
  const Scratch scratch;
  fs::create_directories(scratch.path());
  fs::copy(golden_model("pre_norm_fp16"), scratch / "source");
  fs::create_symlink("loop", scratch / "source/loop");
  EXPECT_EQ(refusal(scratch / "source", scratch / "out"), "no error");
  EXPECT_FALSE(fs::exists(fs::symlink_status(scratch / "out/loop")));
}

/// A checkpoint whose config.json has one more of something than its tensors.
void copy_with_one_more(const std::string& key, const std::string& to) {
  fs::create_directories(to);
  fs::copy(golden_model("pre_norm_fp16"), to);
  auto config = nlohmann::json::parse(std::ifstream(to + "/config.json"));
  config[key] = config[key].get<int>() + 1;
  std::ofstream(to + "/config.json") << config;
}

TEST(QuantizeDirectory, NamesWhatConfigJsonContradicts) {
  const Scratch scratch;
  copy_with_one_more("vocab_size", scratch / "wider");
  copy_with_one_more("num_hidden_layers", scratch / "deeper");
  for (const auto& [source, part] :
       {std::pair{scratch / "wider",
                  "tensor 'decoder.embed_tokens.weight': expected [97, 64] by config.json, found [96"},
        {scratch / "deeper", "found 3 but no tensor of decoder.layers.2"}}) {
    const std::string sentence = refusal(source, scratch / "out");
    EXPECT_NE(sentence.find(part), std::string::npos) << sentence;
    EXPECT_THROW(inspect_model(source), Error);
    EXPECT_THROW(predict_memory(source), Error);
    EXPECT_FALSE(fs::exists(scratch / "out"));
  }
}

TEST(QuantizeDirectory, RefusesInt4ThatGptqCannotHold) {
  const Scratch scratch;
  const std::string sentence = refusal(golden_model("odd_dims"), scratch / "out", {.scheme = Scheme::kInt4});
  EXPECT_NE(sentence.find("expected rows and columns in whole 32s"), std::string::npos) << sentence;
  EXPECT_FALSE(fs::exists(scratch / "out"));
}

TEST(QuantizeDirectory, ShardsAreNamedAndIndexed) {
  const Scratch scratch;
  quantize(golden_model("pre_norm_fp16"), scratch / "out", {.scheme = Scheme::kNf4, .shard_bytes = 20'000});
  const auto index = nlohmann::json::parse(std::ifstream(scratch / "out/model.safetensors.index.json"));
  EXPECT_GT(index["weight_map"].size(), 10U);
  const std::vector<int> tokens{2, 5, 9};
  EXPECT_EQ(Engine::open(scratch / "out").session().logits(tokens),
            Engine::open(golden_model("pre_norm_fp16"), {.scheme = Scheme::kNf4}).session().logits(tokens));
}

TEST(QuantizeDirectory, EmbeddingInInt8HalvesTheTable) {
  const Scratch scratch;
  quantize(golden_model("pre_norm_fp16"), scratch / "out",
           {.scheme = Scheme::kNf4, .embedding = EmbeddingStorage::kInt8});
  const MemoryLedger plain = predict_memory(golden_model("pre_norm_fp16"), {.scheme = Scheme::kNf4});
  const MemoryLedger smaller = predict_memory(scratch / "out");
  EXPECT_LT(smaller[MemoryClass::kEmbedding], plain[MemoryClass::kEmbedding]);
  EXPECT_EQ(Engine::open(scratch / "out").info().embedding, EmbeddingStorage::kInt8);
}

TEST(QuantizeDirectory, LeavesNothingBehindWhenItFails) {
  const Scratch scratch;
  fs::create_directories(scratch.path());
  EXPECT_NE(refusal(golden_model("pre_norm_fp16"), scratch.path().string()).find("found it exists"), std::string::npos);
  EXPECT_NE(refusal(golden_model("pre_norm_fp16"), scratch / "out", {.blocksize = 48}).find("blocksize: expected"),
            std::string::npos);
  EXPECT_NE(refusal(golden_model("absent"), scratch / "out").find("no such checkpoint directory"), std::string::npos);
  EXPECT_NE(refusal(golden_model("post_norm_350m_nf4"), scratch / "out", {.scheme = Scheme::kInt8})
                .find("is already quantized to nf4"),
            std::string::npos);
  EXPECT_EQ(
      refusal(golden_model("pre_norm_fp16"), scratch / "out", {.scheme = Scheme::kInt8Decomp}),
      "quantize: expected a scheme that weights are stored as, found int8-decomp, another way to multiply those of "
      "int8; quantize to int8 and load that as int8-decomp");
  EXPECT_TRUE(fs::is_empty(scratch.path()));
}

TEST(InspectTensor, ShowsTheNotebooksNumbers) {
  const TensorReport report =
      inspect_tensor(golden_model("post_norm_350m"), "decoder.project_in.weight", {.scheme = Scheme::kNf4});
  EXPECT_EQ(report.stored_shape[1], 1);
  EXPECT_EQ(report.stored_shape[0], report.shape[0] * report.shape[1] / 2);
  ASSERT_EQ(report.first_codes.size(), 8U);
  EXPECT_EQ(report.first_bytes[0], report.first_codes[0] * 16 + report.first_codes[1]);
  EXPECT_GT(report.snr_db, 15);
  EXPECT_LT(report.max_error, 1);
  std::uint64_t counted = 0;
  for (const std::uint64_t count : report.histogram) counted += count;
  EXPECT_EQ(counted, static_cast<std::uint64_t>(report.shape[0] * report.shape[1]));
}

TEST(InspectModel, PacksA1024x512WeightTo262144Rows) {
  const auto reports = inspect_model("synthetic:opt-350m", {.scheme = Scheme::kNf4});
  const auto it = std::ranges::find(reports, "decoder.project_in.weight", &ParameterReport::name);
  ASSERT_NE(it, reports.end());
  EXPECT_EQ(it->shape, (std::vector<std::int64_t>{1024, 512}));
  EXPECT_EQ(it->stored_shape, (std::vector<std::int64_t>{262144, 1}));
  EXPECT_EQ(it->dtype, "uint8");
}

}  // namespace
}  // namespace nibble::testing
