// Weights on their way to a device: rounded or quantized there, and made up, to the same bits on every device.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <limits>

#include "nibble/error.h"
#include "tests/devices.h"
#include "tests/kernels/matrix.h"

namespace nibble {
namespace {

/// What stands in a buffer of the backend's device, in units of four bytes.
std::vector<std::uint32_t> words_of(Backend& backend, Buffer buffer) {
  const auto count = static_cast<int>(buffer.size() / sizeof(float));
  std::vector<float> values(static_cast<std::size_t>(count));
  backend.copy_to_host({buffer.mutable_as<void>(), DType::kF32, 1, count}, values);
  std::vector<std::uint32_t> words;
  for (const float value : values) words.push_back(std::bit_cast<std::uint32_t>(value));
  return words;
}

std::vector<Buffer> buffers_of(const F32Scale& scale) { return {scale.absmax}; }
std::vector<Buffer> buffers_of(const NestedScale& scale) {
  const float offset[] = {scale.offset};
  return {scale.absmax, scale.nested_absmax, scale.nested_table, buffer_of<float>(offset)};
}
template <class T>
std::vector<Buffer> buffers_of(const Dense<T>& weight) {
  return {weight.values};
}
std::vector<Buffer> buffers_of(const Int8Row& weight) { return {weight.codes, weight.scb}; }
template <class Scale>
std::vector<Buffer> buffers_of(const Lut4<Scale>& weight) {
  std::vector<Buffer> buffers = buffers_of(weight.scale);
  buffers.push_back(weight.codes);
  buffers.push_back(weight.levels);
  return buffers;
}

std::vector<Buffer> buffers_of(const SymmetricZero&) { return {}; }
std::vector<Buffer> buffers_of(const ZeroPoints& zero) { return {zero.zeros}; }
template <class Zero>
std::vector<Buffer> buffers_of(const Int4Group<Zero>& weight) {
  std::vector<Buffer> buffers = buffers_of(weight.zero);
  buffers.push_back(weight.codes);
  buffers.push_back(weight.scales);
  return buffers;
}

/// Every bit of a weight on the backend's device, in the order it stands in there.
std::vector<std::vector<std::uint32_t>> bits_of(Backend& backend, const Weight& weight) {
  std::vector<std::vector<std::uint32_t>> bits;
  with_layout(weight, [&](const auto& layout) {
    for (const Buffer& buffer : buffers_of(layout)) {
      bits.push_back(words_of(backend, buffer.device() == Device::kCpu ? backend.upload(buffer) : buffer));
    }
  });
  return bits;
}

constexpr std::array kTargets{
    Storage{Scheme::kNone, DType::kF32, 0},        Storage{Scheme::kNone, DType::kF16, 0},
    Storage{Scheme::kNone, DType::kBF16, 0},       Storage{Scheme::kInt8, DType::kBF16, 0},
    Storage{Scheme::kInt8, DType::kF32, 0},        Storage{Scheme::kNf4, DType::kF16, 64},
    Storage{Scheme::kNf4, DType::kBF16, 32},       Storage{Scheme::kFp4, DType::kF32, 128},
    Storage{Scheme::kNf4Dq, DType::kF16, 64},      Storage{Scheme::kFp4Dq, DType::kBF16, 4096},
    Storage{Scheme::kInt4, DType::kF16, 128},      Storage{Scheme::kInt4Asym, DType::kF32, 64},
    Storage{Scheme::kInt8Decomp, DType::kBF16, 0},
};

/// In tiles and not, with a short last block, with fewer blocks than a mean has lanes, and sent in several pieces.
constexpr std::array<std::pair<int, int>, 6> kShapes = {
    {{16, 64}, {48, 192}, {7, 33}, {3, 5}, {1040, 1024}, {513, 2050}}};

std::string trace(const Storage& target, int n, int k) {
  return std::string(to_string(target.scheme)) + " of " + std::string(to_string(target.dtype)) + " in blocks of " +
         std::to_string(target.blocksize) + ", " + std::to_string(n) + " x " + std::to_string(k);
}

/// A CPU makes weights in one way, whatever its instruction set.
class PreparedWeight : public testing::TestWithParam<Device> {};

INSTANTIATE_TEST_SUITE_P(All, PreparedWeight, testing::ValuesIn(devices()), device_name);

TEST_P(PreparedWeight, HasTheBitsThatStoreMakes) {
  const auto backend = make_backend(GetParam(), {.threads = 2});
  ThreadPool pool(2);
  for (const auto& make : {random_dense<float>, random_dense<Half>, random_dense<BFloat16>}) {
    for (const auto& [n, k] : kShapes) {
      const Weight weight = make(n, k, 5);
      for (const Storage& target : kTargets) {
        SCOPED_TRACE(trace(target, n, k));
        const Weight expected = backend->prepare(store(weight, target, "w", pool));
        EXPECT_EQ(bits_of(*backend, backend->prepare(weight, target, "w")), bits_of(*backend, expected));
      }
    }
  }
}

TEST_P(PreparedWeight, IsMadeUpOfTheSameBitsEverywhere) {
  const auto backend = make_backend(GetParam(), {.threads = 2});
  ThreadPool pool(2);
  for (const auto& [n, k] : kShapes) {
    for (const Storage& target : kTargets) {
      SCOPED_TRACE(trace(target, n, k));
      const RandomWeight weight{n, k, target, 0.02F, 1234567};
      EXPECT_EQ(bits_of(*backend, backend->make_random(weight)),
                bits_of(*backend, backend->prepare(make_random_weight(weight, pool))));
    }
  }
}

TEST_P(PreparedWeight, MayHaveARowLargerThanAPiece) {
  const auto backend = make_backend(GetParam(), {.threads = 2});
  ThreadPool pool(2);
  constexpr Storage kInt8{Scheme::kInt8, DType::kF32, 0};
  const Weight weight = random_dense<float>(2, (4 << 20) / 4 + 2, 5);
  EXPECT_EQ(bits_of(*backend, backend->prepare(weight, kInt8, "w")),
            bits_of(*backend, backend->prepare(store(weight, kInt8, "w", pool))));
}

TEST_P(PreparedWeight, OfZerosStaysZero) {
  const auto backend = make_backend(GetParam(), {.threads = 2});
  ThreadPool pool(1);
  const Weight zeros = Dense<float>{buffer_of<float>(std::vector<float>(64 * 64)), 64, 64};
  for (const Storage& target : kTargets) {
    SCOPED_TRACE(trace(target, 64, 64));
    EXPECT_EQ(bits_of(*backend, backend->prepare(zeros, target, "w")),
              bits_of(*backend, backend->prepare(store(zeros, target, "w", pool))));
  }
}

TEST_P(PreparedWeight, IsRefusedWhenItIsNotFinite) {
  const auto backend = make_backend(GetParam(), {.threads = 2});
  const auto refusal = [&](const Weight& weight, const Storage& target) -> std::string {
    try {
      backend->prepare(weight, target, "fc1.weight");
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kFormat);
      return error.what();
    }
    return "no error";
  };
  const std::string sentence = "fc1.weight: expected finite weights, found a NaN or an infinity among them";
  std::vector<float> values = random_values(128 * 128, 3);
  const auto dense = [&] { return Dense<float>{buffer_of<float>(values), 128, 128}; };
  values[9999] = 65520;  // the first number that fp16 rounds to infinity
  for (const Storage& target : kTargets) {
    SCOPED_TRACE(trace(target, 128, 128));
    const bool narrow = target.dtype == DType::kF16 || is_int8(target.scheme);
    EXPECT_EQ(refusal(dense(), target), narrow ? sentence : "no error");
  }
  values[9999] = 65519;
  for (const Storage& target : kTargets) {
    SCOPED_TRACE(trace(target, 128, 128));
    const bool twice = target.dtype == DType::kBF16 && is_int8(target.scheme);  // bf16 makes it 65536
    EXPECT_EQ(refusal(dense(), target), twice ? sentence : "no error");
  }
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    values[9999] = bad;
    for (const Storage& target : kTargets) EXPECT_EQ(refusal(dense(), target), sentence) << trace(target, 128, 128);
    Weight int8 = random_int8<Int8Row>(32, 32, 1);
    std::get<Int8Row>(int8).scb.mutable_as<float>()[3] = bad;
    EXPECT_EQ(refusal(int8, {Scheme::kInt8, DType::kF16, 0}),
              "fc1.weight: expected finite scales, found a NaN or an infinity in its SCB");
  }
  values[9999] = 1;
  EXPECT_EQ(refusal(dense(), kTargets[0]), "no error") << "the backend goes on";
}

}  // namespace
}  // namespace nibble
