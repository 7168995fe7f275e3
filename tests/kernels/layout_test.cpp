// Encoders, tables and decoding against bitsandbytes' own bytes (scripts/golden/kernels.py) and AutoGPTQ's
// (scripts/golden/int4.py).
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <limits>
#include <span>
#include <thread>

#include "nibble/error.h"
#include "tests/kernels/golden_arrays.h"
#include "tests/kernels/linear_cases.h"

namespace nibble {
namespace {

const Json& golden() {
  static const Json json = read_golden("layouts.json");
  return json;
}

const Json& int4_golden() {
  static const Json json = read_golden("int4.json");
  return json;
}

std::vector<std::uint32_t> bits_of(std::span<const float> values) {
  std::vector<std::uint32_t> bits;
  for (const float value : values) bits.push_back(std::bit_cast<std::uint32_t>(value));
  return bits;
}

template <class T>
std::span<const T> span_of(const Buffer& buffer) {
  return {buffer.as<T>(), buffer.size() / sizeof(T)};
}

/// Encodes as the case says and compares codes and absmax.
void expect_lut4(const std::vector<float>& values, const Json& expected) {
  const int blocksize = expected["blocksize"];
  std::vector<std::uint8_t> codes((values.size() + 1) / 2);
  std::vector<float> absmax((values.size() + static_cast<std::size_t>(blocksize) - 1) /
                            static_cast<std::size_t>(blocksize));
  (expected["type"] == "nf4" ? encode_nf4 : encode_fp4)(values, blocksize, codes, absmax);
  EXPECT_EQ(codes, array_of<std::uint8_t>(expected["codes"]));
  EXPECT_EQ(bits_of(absmax), bits_of(array_of<float>(expected["absmax"])));
}

std::string trace(const Json& expected) {
  return expected.value("name", "") + " " + expected.value("type", "") + " " +
         std::to_string(expected.value("blocksize", 0));
}

TEST(Tables, EqualThoseOfBitsandbytes) {
  EXPECT_EQ(bits_of(kNf4Levels), bits_of(array_of<float>(golden()["levels"]["nf4"])));
  EXPECT_EQ(bits_of(kFp4Levels), bits_of(array_of<float>(golden()["levels"]["fp4"])));
  EXPECT_EQ(bits_of(kDynamicMap), bits_of(array_of<float>(golden()["dynamic_map"])));
}

TEST(Lut4, EncodesEveryBlocksizeAsBitsandbytes) {
  const auto values = array_of<float>(golden()["values"]);
  EXPECT_EQ(golden()["blocksizes"].size(), 16U);
  for (const Json& expected : golden()["blocksizes"]) {
    SCOPED_TRACE(trace(expected));
    expect_lut4(values, expected);
  }
}

TEST(Lut4, EncodesValuesOnBordersAsBitsandbytes) {
  for (const Json& expected : golden()["ties"]) {
    SCOPED_TRACE(trace(expected));
    expect_lut4(array_of<float>(expected["values"]), expected);
  }
}

TEST(Lut4, EncodesZerosSubnormalsAndShortBlocksAsBitsandbytes) {
  for (const Json& expected : golden()["edges"]) {
    SCOPED_TRACE(trace(expected));
    expect_lut4(array_of<float>(expected["values"]), expected);
  }
}

TEST(Lut4, EncodesTheSeedsFigures) {
  // The row's absmax, 0.125, lies beyond the first block, whose own is its first value.
  std::vector<float> row(128);
  const float first[] = {0.11218262F, -0.08435059F, -0.02027893F, 0.02336121F};
  std::copy(std::begin(first), std::end(first), row.begin());
  row[100] = 0.125F;
  std::vector<std::uint8_t> codes(64);
  std::vector<float> absmax(2);
  encode_fp4(row, 64, codes, absmax);
  EXPECT_EQ(absmax, (std::vector<float>{0.11218262F, 0.125F}));
  EXPECT_EQ(codes[0], 58);
  EXPECT_EQ(codes[1], 230);
  encode_nf4(row, 64, codes, absmax);
  EXPECT_EQ(codes[0], 241);
  EXPECT_EQ(codes[1], 90);
}

TEST(Lut4, EncodesPiecesAsTheWhole) {
  const auto values = array_of<float>(golden()["values"]);
  const std::span<const float> whole(values);
  std::vector<std::uint8_t> codes((values.size() + 1) / 2), pieces(codes.size());
  std::vector<float> absmax((values.size() + 63) / 64), absmax_pieces(absmax.size());
  encode_nf4(whole, 64, codes, absmax);
  const std::span<std::uint8_t> out(pieces);
  const std::span<float> scales(absmax_pieces);
  encode_nf4(whole.first(640), 64, out.first(320), scales.first(10));
  encode_nf4(whole.subspan(640), 64, out.subspan(320), scales.subspan(10));
  EXPECT_EQ(pieces, codes);
  EXPECT_EQ(absmax_pieces, absmax);
}

TEST(NestedScale, EncodesAsBitsandbytes) {
  for (const Json& expected : golden()["nested"]) {
    SCOPED_TRACE(trace(expected));
    const auto absmax = array_of<float>(expected["absmax"]);
    const NestedScale scale = encode_nested(absmax);
    EXPECT_EQ(std::bit_cast<std::uint32_t>(scale.offset), bits_of(array_of<float>(expected["offset"]))[0]);
    EXPECT_TRUE(std::ranges::equal(span_of<std::uint8_t>(scale.absmax), array_of<std::uint8_t>(expected["codes"])));
    EXPECT_EQ(bits_of(span_of<float>(scale.nested_absmax)), bits_of(array_of<float>(expected["nested_absmax"])));
    std::vector<float> decoded;
    for (std::size_t i = 0; i < absmax.size(); ++i) decoded.push_back(scale.view()[static_cast<std::int64_t>(i)]);
    EXPECT_EQ(bits_of(decoded), bits_of(array_of<float>(expected["decoded"])));
  }
}

TEST(NestedScale, DecodesWeightsAsBitsandbytes) {
  for (const Json& expected : golden()["decoded"]) {
    SCOPED_TRACE(trace(expected));
    const auto& levels = golden()["levels"][expected["type"].get<std::string>()];
    const Weight weight = Lut4<NestedScale>{
        copied(array_of<std::uint8_t>(expected["codes"])),
        copied(array_of<float>(levels)),
        {copied(array_of<std::uint8_t>(expected["absmax"])), copied(array_of<float>(expected["nested_absmax"])),
         copied(array_of<float>(golden()["dynamic_map"])), array_of<float>(expected["offset"])[0]},
        expected["blocksize"],
        8,
        128};
    std::vector<float> decoded(8 * 128);
    decode_all(weight, decoded);
    EXPECT_EQ(bits_of(decoded), bits_of(array_of<float>(expected["decoded"])));
  }
}

TEST(Int8Row, EncodesAndDecodesAsBitsandbytes) {
  for (const Json& expected : golden()["int8"]) {
    SCOPED_TRACE(trace(expected));
    const int cols = expected["cols"];
    const auto weights = array_of<float>(expected["weights"]);
    const auto rows = weights.size() / static_cast<std::size_t>(cols);
    std::vector<std::int8_t> codes(weights.size());
    std::vector<float> scb(rows);
    encode_int8_rows(weights, cols, codes, scb);
    EXPECT_EQ(codes, array_of<std::int8_t>(expected["codes"]));
    EXPECT_EQ(bits_of(scb), bits_of(array_of<float>(expected["scb"])));
    std::vector<float> decoded(weights.size());
    decode_all(Int8Row{copied(codes), copied(scb), static_cast<int>(rows), cols}, decoded);
    EXPECT_EQ(bits_of(decoded), bits_of(array_of<float>(expected["decoded"])));
  }
}

TEST(Int8Row, EncodesTheSeedsFigures) {
  const std::vector<float> row = {0.11218262F, -0.08435059F, -0.02027893F, 0.02336121F, 0.01412964F, 0.125F};
  std::vector<std::int8_t> codes(6);
  std::vector<float> scb(1);
  encode_int8_rows(row, 6, codes, scb);
  EXPECT_EQ(scb[0], 0.125F);
  EXPECT_EQ(codes, (std::vector<std::int8_t>{114, -86, -21, 24, 14, 127}));
}

/// Weights of [rows, cols] in groups, encoded, and what each code, scale and zero point is.
struct Int4Encoded {
  Weight weight;
  std::vector<std::uint8_t> codes, zeros;
  std::vector<std::uint16_t> scales;
};

Int4Encoded encode(std::span<const float> weights, int rows, int cols, int group_size, bool symmetric) {
  const auto groups = static_cast<std::size_t>(rows * groups_in_row(cols, group_size));
  std::vector<std::uint8_t> packed((weights.size() + 1) / 2, 0xff), zeros(groups, 8);
  std::vector<Half> scales(groups);
  if (symmetric) {
    encode_int4(weights, cols, group_size, packed, scales);
  } else {
    encode_int4_asym(weights, cols, group_size, packed, scales, zeros);
  }
  Int4Encoded result;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    result.codes.push_back(static_cast<std::uint8_t>(code4(packed.data(), static_cast<std::int64_t>(i))));
  }
  for (const Half scale : scales) result.scales.push_back(scale.bits);
  result.zeros = zeros;
  if (symmetric) {
    result.weight = Int4Group<SymmetricZero>{copied(packed), copied(scales), {}, group_size, rows, cols};
  } else {
    result.weight = Int4Group<ZeroPoints>{copied(packed), copied(scales), {copied(zeros)}, group_size, rows, cols};
  }
  return result;
}

/// The number in eights of a word of a GPTQ checkpoint, the first in its lowest bits.
std::uint8_t eighth(std::uint32_t word, std::size_t place) {
  return static_cast<std::uint8_t>(word >> (4 * (place % 8)) & 15);
}

TEST(Int4Group, EncodesAndDecodesAsAutoGptq) {
  const int n = int4_golden()["rows"], k = int4_golden()["cols"];
  const auto rows = static_cast<std::size_t>(n), cols = static_cast<std::size_t>(k);
  std::vector<float> weights;
  for (const Half weight : array_of<Half>(int4_golden()["weights"])) weights.push_back(to_float(weight));
  EXPECT_EQ(int4_golden()["packed"].size(), 8U);
  for (const Json& expected : int4_golden()["packed"]) {
    const int group_size = expected["group_size"];
    SCOPED_TRACE(testing::Message() << "group size " << group_size << (expected["sym"] ? " symmetric" : ""));
    const Int4Encoded found = encode(weights, n, k, group_size, expected["sym"]);
    EXPECT_EQ(found.scales, array_of<std::uint16_t>(expected["scales"]));
    const auto qweight = array_of<std::uint32_t>(expected["qweight"]),
               qzeros = array_of<std::uint32_t>(expected["qzeros"]);
    const std::size_t groups = found.zeros.size() / rows;
    for (std::size_t row = 0; row < rows; ++row) {
      for (std::size_t col = 0; col < cols; ++col) {
        ASSERT_EQ(found.codes[row * cols + col], eighth(qweight[col / 8 * rows + row], col)) << row << ", " << col;
      }
      for (std::size_t group = 0; group < groups; ++group) {  // theirs count from 1
        ASSERT_EQ(found.zeros[row * groups + group], eighth(qzeros[(group * rows + row) / 8], row) + 1) << row;
      }
    }
    std::vector<float> decoded(weights.size());
    decode_all(found.weight, decoded);
    const auto halves = array_of<Half>(expected["decoded"]);
    for (std::size_t i = 0; i < decoded.size(); ++i) ASSERT_EQ(rounded<Half>(decoded[i]), to_float(halves[i])) << i;
  }
}

TEST(Int4Group, EncodesTiesZerosAndExtremesAsAutoGptq) {
  for (const Json& expected : int4_golden()["edges"]) {
    SCOPED_TRACE(trace(expected) + (expected["sym"] ? " symmetric" : ""));
    const int k = expected["cols"];
    const auto weights = array_of<float>(expected["weights"]);
    const int n = static_cast<int>(weights.size()) / k;
    const Int4Encoded found = encode(weights, n, k, expected["group_size"], expected["sym"]);
    EXPECT_EQ(found.codes, array_of<std::uint8_t>(expected["codes"]));
    EXPECT_EQ(found.scales, array_of<std::uint16_t>(expected["scales"]));
    EXPECT_EQ(found.zeros, array_of<std::uint8_t>(expected["zeros"]));
    std::vector<float> decoded(weights.size());
    decode_all(found.weight, decoded);
    EXPECT_EQ(bits_of(decoded), bits_of(array_of<float>(expected["decoded"])));
  }
}

TEST(Int4Group, KeepsTheLargestOfPositiveWeights) {  // which AutoGPTQ cuts to 7 of 15 steps
  const Int4Encoded found = encode(std::vector<float>{3.75F, 1.0F, 0.0F}, 1, 3, 32, true);
  EXPECT_EQ(found.codes, (std::vector<std::uint8_t>{15, 10, 8}));
  EXPECT_EQ(found.scales, (std::vector<std::uint16_t>{0x3800}));  // 0.5
}

TEST(Int4Group, EncodesPiecesAsTheWhole) {
  const int k = 43;
  const std::vector<float> weights = random_values(6 * 43, 1);
  const std::span<const float> whole(weights);
  const Int4Encoded all = encode(whole, 6, k, 32, false), first = encode(whole.first(2 * 43), 2, k, 32, false),
                    last = encode(whole.subspan(2 * 43), 4, k, 32, false);
  const auto joined = [](auto a, const auto& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  };
  EXPECT_EQ(joined(first.codes, last.codes), all.codes);
  EXPECT_EQ(joined(first.scales, last.scales), all.scales);
  EXPECT_EQ(joined(first.zeros, last.zeros), all.zeros);
}

TEST(Int4Group, DecodesZeroPointsAtBothEnds) {
  const std::vector<Half> scales = {round_to<Half>(0.5F), round_to<Half>(-2.0F)};
  const std::vector<std::uint8_t> codes = {0x0f, 0x70}, zeros = {15, 0};
  std::vector<float> decoded(4);
  decode_all(Int4Group<ZeroPoints>{copied(codes), copied(scales), {copied(zeros)}, 2, 2, 2}, decoded);
  EXPECT_EQ(decoded, (std::vector<float>{-7.5F, 0.0F, -14.0F, 0.0F}));
}

TEST(Encoders, SurviveWeightsTheCallerShouldHaveRefused) {
  std::vector<float> row(130, 1.0F);
  row[0] = std::numeric_limits<float>::quiet_NaN();
  row[70] = std::numeric_limits<float>::infinity();
  row[129] = 70000.0F;  // beyond fp16
  std::vector<std::int8_t> codes(130);
  std::vector<float> scb(1), absmax(3);
  std::vector<std::uint8_t> packed(65);
  encode_int8_rows(row, 130, codes, scb);
  EXPECT_EQ(codes, std::vector<std::int8_t>(130));
  EXPECT_EQ(scb[0], std::numeric_limits<float>::infinity());
  encode_nf4(row, 64, packed, absmax);
  encode_fp4(row, 64, packed, absmax);
  EXPECT_EQ(absmax[1], std::numeric_limits<float>::infinity());
  for (const bool symmetric : {true, false}) {
    EXPECT_EQ(encode(row, 1, 130, 64, symmetric).scales[1], 0x7c00) << "infinity";
  }
  EXPECT_EQ(encode_nested(absmax).absmax.size(), 3U);
}

TEST(Weight, CountsItsBytes) {
  const Weight int8 = random_int8<Int8Row>(3, 10, 1);
  EXPECT_EQ(code_bytes(int8), 30U);
  EXPECT_EQ(state_bytes(int8), 12U);
  const Weight nf4 = random_lut4<F32Scale>(3, 43, 1);  // 129 weights: three blocks
  EXPECT_EQ(code_bytes(nf4), 65U);
  EXPECT_EQ(state_bytes(nf4), 3U * 4);
  const Weight nested = random_lut4<NestedScale>(3, 43, 1);
  EXPECT_EQ(code_bytes(nested), 65U);
  EXPECT_EQ(state_bytes(nested), 3U + 4 + 4);
  const Weight int4 = random_int4<SymmetricZero, 32>(3, 43, 1);  // two groups a row
  EXPECT_EQ(code_bytes(int4), 65U);
  EXPECT_EQ(state_bytes(int4), 6U * 2);
  const Weight asymmetric = random_int4<ZeroPoints, 32>(3, 43, 1);
  EXPECT_EQ(code_bytes(asymmetric), 65U);
  EXPECT_EQ(state_bytes(asymmetric), 6U * 3);
  const Weight bf16 = random_dense<BFloat16>(3, 43, 1);
  EXPECT_EQ(code_bytes(bf16), 258U);
  EXPECT_EQ(state_bytes(bf16), 0U);
  EXPECT_EQ(rows(bf16), 3);
  EXPECT_EQ(cols(bf16), 43);
}

TEST(Weight, OfTheSeedPacksTwoWeightsAByte) { EXPECT_EQ(code_bytes(random_lut4<F32Scale>(1024, 512, 1)), 262144U); }

TEST(Buffer, KeepsItsOwnerUntilTheLastCopyGoes) {
  auto owner = std::make_shared<std::vector<std::byte>>(8);
  const std::weak_ptr<void> watch = owner;
  Buffer copy;
  {
    const Buffer buffer = Buffer::borrow(*owner, owner);
    owner.reset();
    copy = buffer;
  }
  EXPECT_FALSE(watch.expired());
  EXPECT_EQ(copy.size(), 8U);
  copy = {};
  EXPECT_TRUE(watch.expired());
}

TEST(Buffer, IsAlignedToACacheLine) {
  for (const std::size_t bytes : {std::size_t{1}, std::size_t{100}, std::size_t{0}}) {
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(Buffer::allocate(bytes).as<void>()) % 64, 0U);
  }
}

TEST(Buffer, OfLessThanAHugePageKeepsItsBytesBesideOthers) {
  constexpr int kThreads = 4, kEach = 300;  // of 64 KiB: some stretches
  constexpr std::size_t kBytes = 64 << 10;
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&wrong, t] {
      std::vector<Buffer> buffers;
      for (int i = 0; i < kEach; ++i) {
        buffers.push_back(Buffer::allocate_in_huge_pages(kBytes + static_cast<std::size_t>(i)));
        std::memset(buffers.back().mutable_as<void>(), 16 * t + i % 16, buffers.back().size());
        if (i % 50 == 49) buffers.erase(buffers.begin(), buffers.begin() + 25);
      }
      for (std::size_t i = 0; i < buffers.size(); ++i) {
        const std::span bytes(buffers[i].as<unsigned char>(), buffers[i].size());
        if (std::ranges::any_of(bytes, [&](unsigned char byte) { return byte != bytes[0] || byte / 16 != t; })) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(Buffer, SaysHowMuchTheSystemRefused) {
  try {
    Buffer::allocate(std::size_t{1} << 60);
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kOutOfMemory);
    EXPECT_STREQ(error.what(), "memory: 1152921504606846976 bytes were refused by the system");
  }
}

}  // namespace
}  // namespace nibble
