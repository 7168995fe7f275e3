// Quantized checkpoints as transformers + bitsandbytes, AutoGPTQ and AutoAWQ save them: what they decode to, bit for
// bit.
#include "models/formats/format.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "kernels/dispatch.h"
#include "models/checkpoint/safetensors_writer.h"
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

/// Readers would take it for 0 or 16.
TEST(Formats, WriteNoZeroPointOf0) {
  constexpr int kSize = 32;
  Buffer codes = Buffer::allocate(kSize * kSize / 2);
  Buffer scales = Buffer::allocate(kSize * sizeof(Half));
  Buffer zeros = Buffer::allocate(kSize);
  for (int i = 0; i < kSize * kSize / 2; ++i) {
    codes.mutable_as<std::uint8_t>()[i] = static_cast<std::uint8_t>(i * 2 % 16 * 16 + (i * 2 + 1) % 16);
  }
  std::fill_n(scales.mutable_as<Half>(), kSize, round_to<Half>(0.5F));
  for (int row = 0; row < kSize; ++row) zeros.mutable_as<std::uint8_t>()[row] = static_cast<std::uint8_t>(row % 3);
  const Int4Group<ZeroPoints> weight{codes, scales, {zeros}, kSize, kSize, kSize};

  const fs::path folder = fs::temp_directory_path() / ("nibble-zeros-" + std::to_string(::getpid()));
  fs::create_directories(folder);
  const std::vector<OutputTensor> tensors = write_matrix(weight, "x", DType::kF16);
  std::vector<TensorInfo> infos;
  for (const OutputTensor& tensor : tensors) infos.push_back(tensor.info);
  SafetensorsWriter writer(folder / "model.safetensors", infos);
  for (const OutputTensor& tensor : tensors) {
    writer.write(tensor.info.name, {tensor.data.as<std::byte>(), tensor.data.size()});
  }
  writer.commit();
  const Checkpoint checkpoint = Checkpoint::open(folder);
  const auto read = std::get<Int4Group<ZeroPoints>>(format_of(checkpoint, "x").read(checkpoint, "x"));
  fs::remove_all(folder);

  std::vector<float> found(kSize * kSize);
  decode_all(read, found);
  for (int row = 0; row < kSize; ++row) {
    const int zero = row % 3;
    EXPECT_EQ(read.zero.zeros.as<std::uint8_t>()[row], std::max(zero, 1));
    for (int col = 0; col < kSize; ++col) {
      const int code = zero == 0 ? std::min(col % 16, 14) : col % 16;
      EXPECT_EQ(found[static_cast<std::size_t>(row * kSize + col)], 0.5F * static_cast<float>(code - zero));
    }
  }
}

}  // namespace
}  // namespace nibble
