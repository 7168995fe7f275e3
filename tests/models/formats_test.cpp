// Quantized checkpoints as transformers + bitsandbytes, AutoGPTQ and AutoAWQ save them: what they decode to, bit for
// bit.
#include "models/formats/format.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "kernels/dispatch.h"
#include "tests/places.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

const std::string kModels = fixtures_dir() + "/models";

template <class T>
int mismatches(const std::vector<float>& decoded, const HostTensor& expected) {
  const auto* values = reinterpret_cast<const T*>(expected.data.data());
  int count = 0;
  for (std::size_t i = 0; i < decoded.size(); ++i) {
    const T mine = round_to<T>(decoded[i]);
    count += std::memcmp(&mine, &values[i], sizeof(T)) != 0 && to_float(mine) != to_float(values[i]) ? 1 : 0;
  }
  return count;
}

TEST(Formats, DecodeToWhatPeersDequantizeTo) {
  int compared = 0;
  for (const auto& entry : fs::directory_iterator(kModels)) {
    const fs::path expected_file = entry.path() / "expected.safetensors";
    if (!entry.is_directory() || !fs::exists(expected_file)) continue;
    const auto expected = open_safetensors(expected_file);
    std::optional<Checkpoint> checkpoint;
    for (std::size_t i = 0; i < expected->tensors().size(); ++i) {
      const TensorInfo& info = expected->tensors()[i];
      const bool half = info.name.starts_with("dequantized_fp16.");
      if (!half && !info.name.starts_with("dequantized.")) continue;
      if (!checkpoint) checkpoint = Checkpoint::open(entry.path());
      std::string name = info.name.substr(info.name.find('.') + 1);
      name.erase(name.rfind(".weight"));
      const Weight weight = format_of(*checkpoint, name).read(*checkpoint, name);
      ASSERT_EQ(static_cast<std::int64_t>(rows(weight)) * cols(weight), info.elements()) << entry.path() << info.name;
      std::vector<float> decoded(static_cast<std::size_t>(info.elements()));
      decode_all(weight, decoded);
      const HostTensor values = expected->read(i);
      EXPECT_EQ(half ? mismatches<Half>(decoded, values) : mismatches<float>(decoded, values), 0)
          << entry.path() << " " << info.name;
      ++compared;
    }
  }
  EXPECT_GT(compared, 20);
}

TEST(Formats, DescribeFromHeadersWhatReadReturns) {
  int compared = 0;
  for (const auto& entry : fs::directory_iterator(kModels)) {
    if (!entry.is_directory() || !fs::exists(entry.path() / "config.json")) continue;
    const Checkpoint checkpoint = Checkpoint::open(entry.path());
    const std::string prefix = checkpoint.find("decoder.embed_tokens.weight") != nullptr ? "" : "model.";
    const std::string name = prefix + "decoder.layers.0.fc1";
    const Format& format = format_of(checkpoint, name);
    const MatrixInfo info = format.describe(checkpoint, name);
    const Weight weight = format.read(checkpoint, name);
    EXPECT_EQ(info.n, rows(weight));
    EXPECT_EQ(info.k, cols(weight));
    EXPECT_EQ(info.storage, storage_of(weight, info.storage.dtype)) << entry.path();
    const StorageBytes bytes = storage_bytes(info.storage, info.n, info.k);
    EXPECT_EQ(bytes.codes, code_bytes(weight)) << entry.path();
    EXPECT_EQ(bytes.state, state_bytes(weight)) << entry.path();
    ++compared;
  }
  EXPECT_GT(compared, 30);
}

}  // namespace
}  // namespace nibble
