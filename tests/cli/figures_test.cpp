// The arithmetic of nibble bench: bytes of a small model counted by hand, figures of times that no clock gave.
#include "runtime/cli/figures.h"

#include <gtest/gtest.h>

#include <cmath>

namespace nibble::cli {
namespace {

ParameterReport parameter(std::string name, MemoryClass memory_class, std::vector<std::int64_t> shape,
                          std::uint64_t bytes, std::uint64_t state = 0) {
  return {std::move(name), memory_class, Scheme::kNone, "", shape, shape, bytes, state};
}

// Ten tokens, hidden size 4, in fp16: the table has 80 bytes, a row of it 8; 6 positions have 48.
std::vector<ParameterReport> tied_model() {
  return {parameter("decoder.embed_tokens.weight", MemoryClass::kEmbedding, {10, 4}, 80),
          parameter("decoder.embed_positions.weight", MemoryClass::kEmbedding, {6, 4}, 48),
          parameter("decoder.layers.0.fc1.weight", MemoryClass::kLinear, {4, 4}, 8, 4),
          parameter("decoder.layers.0.fc1.bias", MemoryClass::kOther, {4}, 8)};
}

TEST(StepReads, CountTheTiedTableAsTheHeadAndARowOfItForEachSequence) {
  const StepReads reads = step_reads(tied_model(), 1600, 100);
  EXPECT_EQ(reads.weights, 80U + 8 + 4 + 8);
  EXPECT_EQ(reads.per_sequence, 8U + 8);
  EXPECT_EQ(reads.per_token, 16U);
}

TEST(StepReads, CountAnUntiedHeadInPlaceOfTheTable) {
  std::vector<ParameterReport> untied = tied_model();
  untied.push_back(parameter("lm_head.weight", MemoryClass::kHead, {10, 4}, 80));
  EXPECT_EQ(step_reads(untied, 1600, 100).weights, 80U + 8 + 4 + 8);
  EXPECT_EQ(step_reads(untied, 1600, 100).per_sequence, 8U + 8);
}

TEST(StepReads, CountTheStateOfAnInt8Table) {
  std::vector<ParameterReport> int8 = tied_model();
  int8[0] = parameter("decoder.embed_tokens.weight", MemoryClass::kEmbedding, {10, 4}, 40, 40);
  EXPECT_EQ(step_reads(int8, 1600, 100).weights, 40U + 40 + 8 + 4 + 8);
  EXPECT_EQ(step_reads(int8, 1600, 100).per_sequence, 4U + 4 + 8);
}

TEST(DecodeReads, AttendToOneTokenMoreEachStep) {
  const StepReads reads{100, 16, 10};
  // Two sequences of 5 tokens: steps read 6, 7 and 8 of each.
  EXPECT_EQ(decode_reads(reads, {0, 3, 5, 2}), 3U * 100 + 2 * (3 * 16 + (6 + 7 + 8) * 10));
  // At depth 0 there is one token to go on from.
  EXPECT_EQ(decode_reads(reads, {0, 1, 0, 1}), 100U + 16 + 2 * 10);
  EXPECT_EQ(decode_reads(reads, {8, 0, 5, 1}), 0U);
}

TEST(Samples, HaveAMedianThatOneSlowRunDoesNotMove) {
  const Samples samples({2, 1, 9, 3, 2});
  EXPECT_EQ(samples.median(), 2);
  EXPECT_EQ(samples.spread(), 1);  // distances 0, 1, 7, 1, 0
  EXPECT_DOUBLE_EQ(samples.mean(), 3.4);
  EXPECT_DOUBLE_EQ(samples.standard_deviation(), std::sqrt((1.96 + 5.76 + 31.36 + 0.16 + 1.96) / 4));
  EXPECT_EQ(Samples({4, 1, 2, 3}).median(), 2.5);
  EXPECT_EQ(Samples({7}).spread(), 0);
  EXPECT_EQ(Samples({7}).standard_deviation(), 0);
}

TEST(Samples, BecomeRates) {
  const Samples rates = Samples({0.5, 0.25}).rates(128);
  EXPECT_EQ(rates.values(), (std::vector<double>{256, 512}));
}

TEST(TestSeconds, AreThoseOfWhatTheTestMeasures) {
  std::vector<GenerateStats> runs(2);
  runs[0].prefill_seconds = 1;
  runs[0].decode_seconds = 2;
  runs[0].first_token_seconds = 1.5;
  runs[1].prefill_seconds = 3;
  runs[1].decode_seconds = 4;
  runs[1].first_token_seconds = 3.5;
  EXPECT_EQ(test_seconds({512, 0, 0, 1}, runs).values(), (std::vector<double>{1, 3}));
  EXPECT_EQ(test_seconds({0, 128, 0, 1}, runs).values(), (std::vector<double>{2, 4}));
  EXPECT_EQ(first_token_seconds(runs).median(), 2.5);
}

}  // namespace
}  // namespace nibble::cli
