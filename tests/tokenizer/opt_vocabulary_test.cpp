// OPT's own vocabulary and the whole held-out corpus, where the reference data is present.
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <memory>

#include "tests/tokenizer/tokenizer_testing.h"
#include "tokenizer/tokenizer.h"

namespace nibble {
namespace {

using testing::fixtures;
using testing::shared;

/// The bytes of an .xz file; nothing when it or the xz program is absent.
std::string unpacked(const std::filesystem::path& path) {
  std::string text;
  if (!std::filesystem::exists(path)) return text;
  const std::string command = "xz -dc '" + path.string() + "' 2>/dev/null";
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command.c_str(), "r"), pclose);
  if (!pipe) return text;
  std::array<char, 1 << 16> block;
  while (const std::size_t size = std::fread(block.data(), 1, block.size(), pipe.get()))
    text.append(block.data(), size);
  return text;
}

/// Fowler, Noll, Vo: 64 bits, over ids as little-endian 32-bit words.
std::string fnv1a(const std::vector<int>& ids) {
  std::uint64_t hash = 0xCBF29CE484222325;
  for (const int id : ids) {
    for (int shift = 0; shift < 32; shift += 8) {
      hash = (hash ^ (static_cast<std::uint32_t>(id) >> shift & 0xFFu)) * 0x100000001B3;
    }
  }
  std::array<char, 17> text;
  std::snprintf(text.data(), text.size(), "%016llx", static_cast<unsigned long long>(hash));
  return text.data();
}

/// `lines` lines from the front of `text`, which loses them.
std::string_view take_lines(std::string_view& text, int lines) {
  std::size_t end = 0;
  for (int i = 0; i < lines && end < text.size(); ++i) end = std::min(text.find('\n', end), text.size() - 1) + 1;
  const std::string_view taken = text.substr(0, end);
  text.remove_prefix(end);
  return taken;
}

void expect_golden_heldout_ids(const std::filesystem::path& tokenizer_directory, const std::string& name) {
  const std::string corpus = unpacked(shared() / "corpus" / "heldout.txt.xz");
  if (corpus.empty()) GTEST_SKIP() << "the held-out corpus or xz is absent";
  const auto golden = nlohmann::json::parse(testing::read_file(fixtures() / "heldout.json"));
  const auto tokenizer = open_tokenizer(tokenizer_directory);
  std::string_view rest = corpus;
  int batch = 0;
  for (const auto& expected : golden[name]) {
    const auto ids = tokenizer->encode(take_lines(rest, golden["batch_lines"]));
    EXPECT_EQ(ids.size(), expected["count"].get<std::size_t>()) << "batch " << batch;
    EXPECT_EQ(fnv1a(ids), expected["fnv1a"].get<std::string>()) << "batch " << batch;
    ++batch;
  }
  EXPECT_GT(batch, 0);
  EXPECT_TRUE(rest.empty());
}

TEST(HeldOutCorpus, HasTheIdsOfThePeerInOptsVocabulary) {
  if (!std::filesystem::exists(shared() / "tokenizer" / "vocab.json")) GTEST_SKIP() << "OPT's vocabulary is absent";
  expect_golden_heldout_ids(shared() / "tokenizer", "opt");
}

TEST(HeldOutCorpus, HasTheIdsOfThePeerInSentencePiece) {
  expect_golden_heldout_ids(fixtures() / "sentencepiece_bpe", "sentencepiece_bpe");
}

class OptVocabulary : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(shared() / "tokenizer" / "vocab.json")) GTEST_SKIP() << "OPT's vocabulary is absent";
    tokenizer_ = open_tokenizer(shared() / "tokenizer");
  }
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(OptVocabulary, AnswersItsTestVectors) {
  const auto vectors = testing::read_lines(shared() / "tokenizer" / "test_vectors.jsonl");
  EXPECT_EQ(vectors.size(), 39U);
  for (const auto& vector : vectors) {
    const auto text = vector["text"].get<std::string>();
    EXPECT_EQ(tokenizer_->encode(text), vector["ids"].get<std::vector<int>>()) << text;
  }
}

TEST_F(OptVocabulary, AnswersThePublishedExamples) {
  EXPECT_EQ(tokenizer_->vocab_size(), 50265);
  EXPECT_EQ(tokenizer_->encode(""), std::vector<int>{2});
  EXPECT_EQ(tokenizer_->encode("A photo of a cat"), (std::vector<int>{2, 250, 1345, 9, 10, 4758}));
  EXPECT_EQ(tokenizer_->encode("I like you."), (std::vector<int>{2, 100, 101, 47, 4}));
  EXPECT_EQ(tokenizer_->encode("Hello, my name is"), (std::vector<int>{2, 31414, 6, 127, 766, 16}));
  EXPECT_EQ(decode(*tokenizer_, std::vector<int>{31414, 232, 328, 740, 1140, 12695, 69, 46078, 1588}),
            "Hello world! c\u00e9c\u00e9 herlolip");
  EXPECT_EQ(
      decode(*tokenizer_, std::vector<int>{8966, 6, 127, 4252, 16, 127, 1441, 8, 52, 32, 11, 10, 1291, 4, 38, 524}),
      " Joel, my dad is my friend and we are in a relationship. I am");
}

TEST_F(OptVocabulary, PrintsNothingForSpecialTokensAndPaddedRows) {
  EXPECT_EQ(decode(*tokenizer_, std::vector<int>{2, 1, 50265, 50271, -1}), "");
  EXPECT_EQ(decode(*tokenizer_, std::vector<int>{0, 3, 50264}), "<s><unk><mask>");
  EXPECT_EQ(tokenizer_->piece(50118), "\n");
}

TEST_F(OptVocabulary, EncodesAWordOfAMegabyte) {
  const auto ids = tokenizer_->encode(std::string(1'000'000, 'a'));
  EXPECT_EQ(decode(*tokenizer_, ids).size(), 1'000'000U);
  EXPECT_EQ(decode(*tokenizer_, tokenizer_->encode(std::string(1'000'000, ' '))), std::string(1'000'000, ' '));
}

}  // namespace
}  // namespace nibble
