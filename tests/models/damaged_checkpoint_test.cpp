// Checkpoints that contradict themselves: one sentence each, naming the file and the tensor.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "models/checkpoint/safetensors_writer.h"
#include "models/opt.h"
#include "nibble/error.h"
#include "tests/devices.h"
#include "tests/places.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

struct Contents {
  TensorInfo info;
  std::vector<std::byte> data;
};
using Change = std::function<void(std::map<std::string, Contents>&)>;

/// A copy of a golden checkpoint with its tensors or its config.json changed; gone at the end.
class Changed {
 public:
  Changed(const std::string& golden, const Change& change, const std::function<void(Json&)>& change_config = {})
      : path_(fs::temp_directory_path() / ("nibble-damaged-" + std::to_string(::getpid()) + "-" + next())) {
    const fs::path source = fs::path(fixtures_dir()) / "models" / golden;
    fs::create_directories(path_);
    Json config = Json::parse(std::ifstream(source / "config.json"));
    if (change_config) change_config(config);
    std::ofstream(path_ / "config.json") << config;
    const Checkpoint checkpoint = Checkpoint::open(source);
    std::map<std::string, Contents> tensors;
    for (const TensorInfo& info : checkpoint.tensors()) {
      const HostTensor tensor = checkpoint.read(info);
      tensors.emplace(info.name, Contents{info, {tensor.data.begin(), tensor.data.end()}});
    }
    change(tensors);
    std::vector<TensorInfo> infos;
    for (const auto& [name, contents] : tensors) infos.push_back(contents.info);
    SafetensorsWriter writer(path_ / "model.safetensors", infos);
    for (const auto& [name, contents] : tensors) writer.write(name, contents.data);
    writer.commit();
  }
  ~Changed() { fs::remove_all(path_); }
  Changed(const Changed&) = delete;
  Changed& operator=(const Changed&) = delete;

  std::unique_ptr<ParameterSource> source() const { return open_checkpoint_source(path_); }

  /// What loading it says, on every device.
  std::string refusal(std::optional<Scheme> scheme = {}, DType dtype = DType::kF32) const {
    const std::string sentence = refusal(scheme, dtype, Device::kCpu);
    if (has_cuda()) {
      EXPECT_EQ(refusal(scheme, dtype, Device::kCuda), sentence);
      const std::uint64_t before = cuda_available_memory();
      refusal(scheme, dtype, Device::kCuda);
      EXPECT_EQ(cuda_available_memory(), before) << "nothing is left behind";
    }
    return sentence;
  }

 private:
  std::string refusal(std::optional<Scheme> scheme, DType dtype, Device device) const {
    try {
      const auto source = open_checkpoint_source(path_);
      const auto backend = make_backend(device, {.threads = 1});
      OptModel::load(*source, {scheme, dtype, {}, {}}, *backend, {});
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }

  static std::string next() {
    static int count = 0;
    return std::to_string(++count);
  }
  fs::path path_;
};

template <class T>
void set(Contents& contents, std::size_t place, T value) {
  std::memcpy(contents.data.data() + place * sizeof value, &value, sizeof value);
}

void expect_in_order(const std::string& sentence, std::initializer_list<const char*> parts) {
  std::size_t from = 0;
  for (const char* part : parts) {
    from = sentence.find(part, from);
    ASSERT_NE(from, std::string::npos) << "'" << part << "' is not in: " << sentence;
  }
}

constexpr const char* kFc1 = "model.decoder.layers.0.fc1.weight";

TEST(DamagedCheckpoint, UnchangedCopyLoads) {
  EXPECT_EQ(Changed("pre_norm", [](auto&) {}).refusal(), "no error");
  EXPECT_EQ(Changed("post_norm_350m_nf4", [](auto&) {}).refusal(), "no error");
}

TEST(DamagedCheckpoint, NamesAMissingWeight) {
  const Changed missing("pre_norm", [](auto& t) { t.erase(kFc1); });
  expect_in_order(missing.refusal(), {"no tensor", "decoder.layers.0.fc1.weight"});
}

TEST(DamagedCheckpoint, NamesAMissingBiasOrNormAmongOthers) {
  for (const char* tensor :
       {"decoder.layers.1.fc2.bias", "decoder.layers.0.fc1.bias", "decoder.layers.0.final_layer_norm.weight",
        "decoder.layers.0.self_attn_layer_norm.bias"}) {
    const Changed missing("pre_norm", [&](auto& t) { t.erase(std::string("model.") + tensor); });
    expect_in_order(missing.refusal(), {"no tensor", tensor});
    EXPECT_THROW(missing.source()->vector(tensor, 64), Error);
  }
}

TEST(DamagedCheckpoint, IsFoundBeforeAnythingIsRead) {
  const auto refusal = [](const Changed& changed) -> std::string {
    try {
      find_parameters(*changed.source());
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  const Changed missing("pre_norm", [](auto& t) { t.erase("model.decoder.layers.1.fc2.bias"); });
  expect_in_order(refusal(missing), {"no tensor", "decoder.layers.1.fc2.bias"});
  const Changed wrong("pre_norm", [](auto& t) { std::swap(t.at(kFc1).info.shape[0], t.at(kFc1).info.shape[1]); });
  expect_in_order(refusal(wrong), {"decoder.layers.0.fc1.weight", "expected [", "config.json", "found ["});
  EXPECT_EQ(refusal(Changed("pre_norm", [](auto&) {})), "no error");
}

TEST(DamagedCheckpoint, NamesAWrongShape) {
  const Changed wrong("pre_norm", [](auto& t) { std::swap(t.at(kFc1).info.shape[0], t.at(kFc1).info.shape[1]); });
  expect_in_order(wrong.refusal(), {"decoder.layers.0.fc1.weight", "expected [", "config.json", "found ["});
}

TEST(DamagedCheckpoint, NamesAWrongDtype) {
  const Changed wrong("pre_norm", [](auto& t) { t.at(kFc1).info.dtype = DType::kI32; });
  expect_in_order(wrong.refusal(), {"model.safetensors", kFc1, "expected", "found int32"});
}

TEST(DamagedCheckpoint, NamesWeightsThatAreNotNumbers) {
  const Changed nan("pre_norm", [](auto& t) {
    const float value = std::nanf("");
    std::memcpy(t.at(kFc1).data.data() + 400, &value, sizeof value);
  });
  for (const auto scheme : {Scheme::kNone, Scheme::kInt8, Scheme::kNf4}) {
    expect_in_order(nan.refusal(scheme), {kFc1, "expected finite", "found"});
  }
}

TEST(DamagedCheckpoint, NamesBiasesAndNormsThatAreNotNumbers) {
  for (const std::string name : {"decoder.layers.0.fc1.bias", "decoder.layers.1.final_layer_norm.weight"}) {
    const auto with_bits = [&](const char* golden, auto bits) {
      return Changed(golden, [&](auto& t) { set(t.at("model." + name), 5, bits); }).refusal();
    };
    const std::string expected = name + ": expected finite values, found a NaN or an infinity among them";
    EXPECT_EQ(with_bits("pre_norm", std::uint32_t{0x7fc00000}), expected);
    EXPECT_EQ(with_bits("pre_norm", std::uint32_t{0xff800000}), expected);
    EXPECT_EQ(with_bits("pre_norm_fp16", std::uint16_t{0x7e00}), expected);
    EXPECT_EQ(with_bits("pre_norm_bf16", std::uint16_t{0x7f80}), expected);
  }
}

TEST(DamagedCheckpoint, NamesBiasesBeyondWhatTheComputeDtypeHolds) {
  const Changed large("pre_norm", [](auto& t) { set(t.at("model.decoder.layers.0.fc1.bias"), 0, 70000.0F); });
  EXPECT_EQ(large.refusal(Scheme::kNone, DType::kBF16), "no error");
  expect_in_order(large.refusal(Scheme::kNone, DType::kF16), {"decoder.layers.0.fc1.bias", "expected finite values"});
}

TEST(DamagedCheckpoint, NamesWeightsBeyondWhatInt8Rounds) {
  const Changed large("pre_norm", [](auto& t) {
    const float value = 70000;
    std::memcpy(t.at(kFc1).data.data(), &value, sizeof value);
  });
  EXPECT_EQ(large.refusal(Scheme::kNf4), "no error");
  expect_in_order(large.refusal(Scheme::kInt8), {kFc1, "expected finite"});
}

TEST(DamagedCheckpoint, NamesMoreLayersThanTheConfigHas) {
  const Changed more("pre_norm", [](auto& t) {
    for (const int layer : {1, 2, 3}) {
      Contents copy = t.at(kFc1);
      copy.info.name = "model.decoder.layers." + std::to_string(layer) + ".fc1.weight";
      t.insert_or_assign(copy.info.name, copy);
    }
  });
  expect_in_order(more.refusal(), {"num_hidden_layers", "decoder.layers."});
}

TEST(DamagedCheckpoint, NamesFewerLayersThanTheConfigHas) {
  for (const int layers : {3, std::numeric_limits<int>::max()}) {
    const Changed fewer(
        "pre_norm", [](auto&) {}, [&](Json& config) { config["num_hidden_layers"] = layers; });
    const std::string last = "no tensor of decoder.layers." + std::to_string(layers - 1);
    expect_in_order(fewer.refusal(), {"config.json: num_hidden_layers", last.c_str()});
  }
}

TEST(DamagedCheckpoint, NamesMissingQuantizationState) {
  const Changed missing("post_norm_350m_nf4", [](auto& t) { t.erase(std::string(kFc1) + ".absmax"); });
  expect_in_order(missing.refusal(), {"no tensor", "fc1.weight.absmax"});
  const Changed bare("post_norm_350m_nf4",
                     [](auto& t) { t.erase(std::string(kFc1) + ".quant_state.bitsandbytes__nf4"); });
  expect_in_order(bare.refusal(), {kFc1, "expected", "bitsandbytes, GPTQ or AWQ", "found uint8"});
  const Changed unscaled("whole_32s_int4", [](auto& t) { t.erase("model.decoder.layers.0.fc1.scales"); });
  expect_in_order(unscaled.refusal(), {"model.safetensors: tensor 'model.decoder.layers.0.fc1.qweight': expected",
                                       "bitsandbytes, GPTQ or AWQ", "found int32 ["});
}

TEST(DamagedCheckpoint, NamesAQuantStateThatIsNotOne) {
  const std::string key = std::string(kFc1) + ".quant_state.bitsandbytes__nf4";
  const auto with_text = [&](const std::string& text) {
    return Changed("post_norm_350m_nf4",
                   [&](auto& t) {
                     Contents& contents = t.at(key);
                     contents.data.resize(text.size());
                     std::memcpy(contents.data.data(), text.data(), text.size());
                     contents.info.shape = {static_cast<std::int64_t>(text.size())};
                   })
        .refusal();
  };
  expect_in_order(with_text("not json"), {key.c_str(), "expected valid JSON, found an error at byte"});
  expect_in_order(with_text("{\"quant_type\":" + std::string(300'000, '[') + std::string(300'000, ']') + "}"),
                  {key.c_str(), "expected JSON nested at most 16 deep"});
  expect_in_order(with_text("{}"), {key.c_str(), "expected a key"});
  expect_in_order(with_text(R"({"quant_type":"af4","blocksize":64,"dtype":"float16","shape":[4,4]})"),
                  {key.c_str(), "quant_type", "af4"});
  expect_in_order(with_text(R"({"quant_type":"nf4","blocksize":63,"dtype":"float16","shape":[4,4]})"),
                  {key.c_str(), "blocksize", "63"});
}

TEST(DamagedCheckpoint, NamesTooFewCodes) {
  const Changed half("post_norm_350m_nf4", [](auto& t) {
    Contents& codes = t.at(kFc1);
    codes.data.resize(codes.data.size() / 2);
    codes.info.shape[0] /= 2;
  });
  expect_in_order(half.refusal(), {kFc1, "expected", "bytes of packed codes", "found"});
}

TEST(DamagedCheckpoint, NamesScalesThatAreNotNumbers) {
  const Changed nan("post_norm_350m_nf4", [](auto& t) {
    const float value = INFINITY;
    std::memcpy(t.at(std::string(kFc1) + ".absmax").data.data(), &value, sizeof value);
  });
  expect_in_order(nan.refusal(), {kFc1, "expected finite scales", "absmax"});
}

TEST(DamagedCheckpoint, RefusesGpuTileOrders) {
  const Changed tiled("post_norm_350m_int8",
                      [](auto& t) { t.at("model.decoder.layers.0.fc1.weight_format").data[0] = std::byte{3}; });
  expect_in_order(tiled.refusal(), {"fc1.weight_format", "expected 0", "found 3"});
}

TEST(DamagedCheckpoint, OfGptqNamesWhatItsTensorsContradict) {
  const std::string name = "model.decoder.layers.0.fc2";  // [64, 160] in groups of 128
  const Changed ordered("whole_32s_int4", [&](auto& tensors) { set(tensors.at(name + ".g_idx"), 7, std::int32_t{1}); });
  expect_in_order(ordered.refusal(),
                  {"fc2.g_idx", "expected columns in the order of their groups", "column 7 in group 1"});
  const Changed endless("whole_32s_int4",
                        [&](auto& tensors) { set(tensors.at(name + ".scales"), 3, std::uint16_t{0x7c00}); });
  expect_in_order(endless.refusal(), {"fc2.scales", "expected finite scales"});
  const Changed eight_bit("whole_32s_int4", [&](auto& tensors) {
    auto& zeros = tensors.at(name + ".qzeros");
    zeros.info.shape[1] *= 2;
    zeros.data.resize(zeros.data.size() * 2);
  });
  expect_in_order(eight_bit.refusal(), {"fc2.qzeros", "expected [2, 8]", "found [2, 16]"});
  const Changed odd("whole_32s_awq", [&](auto& tensors) {  // five groups of 32 become four
    for (const char* part : {".qzeros", ".scales"}) {
      auto& contents = tensors.at(name + part);
      contents.data.resize(contents.data.size() / 5 * 4);
      contents.info.shape[0] = 4;
    }
  });
  expect_in_order(odd.refusal(), {"fc2.scales", "expected groups of a power of two", "of 160 columns", "found 4"});
}

}  // namespace
}  // namespace nibble
