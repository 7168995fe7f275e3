// Every fixture tokenizer against what Hugging Face's and SentencePiece's libraries answered (scripts/golden).
#include <gtest/gtest.h>

#include <set>

#include "tests/tokenizer/tokenizer_testing.h"
#include "tokenizer/stream_decoder.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/utf8.h"

namespace nibble {
namespace {

using testing::fixtures;

struct Vector {
  std::string text;
  nlohmann::json golden;
};

/// The golden answers of one fixture, each with the text it answers.
std::vector<Vector> vectors_of(const std::string& fixture) {
  const auto texts = testing::read_lines(fixtures() / "texts.jsonl");
  const auto golden = testing::read_lines(fixtures() / fixture / "vectors.jsonl");
  EXPECT_EQ(texts.size(), golden.size());
  EXPECT_GT(texts.size(), 100U);
  std::vector<Vector> vectors;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    vectors.push_back({testing::from_base64(texts[i].get<std::string>()), golden[i]});
  }
  return vectors;
}

std::vector<int> ids_of(const nlohmann::json& list) { return list.get<std::vector<int>>(); }

bool is_valid(std::string_view text) { return replace_invalid(text) == text; }

/// A tokenizer directory and the fixture whose vectors it answers.
struct Case {
  std::string directory, vectors;
};

class TokenizerVectors : public ::testing::TestWithParam<Case> {
 protected:
  const std::unique_ptr<Tokenizer> tokenizer_ = open_tokenizer(fixtures() / GetParam().directory);
  const std::vector<Vector> vectors_ = vectors_of(GetParam().vectors);
};

TEST_P(TokenizerVectors, EncodesAsThePeer) {
  for (const auto& [text, golden] : vectors_) {
    if (!golden.contains("ids")) continue;
    EXPECT_EQ(tokenizer_->encode(text), ids_of(golden["ids"])) << text;
  }
}

class SpecialTokensAsText : public TokenizerVectors {};

TEST_P(SpecialTokensAsText, EncodesAsThePeer) {
  for (const auto& [text, golden] : vectors_) {
    const char* field = golden.contains("ids_as_text") ? "ids_as_text" : "ids";
    EXPECT_EQ(tokenizer_->encode(text, SpecialTokens::kText), ids_of(golden[field])) << text;
  }
}

TEST_P(TokenizerVectors, DecodesAsThePeer) {
  for (const auto& [text, golden] : vectors_) {
    if (!golden.contains("ids")) continue;
    const std::string expected = golden.value("decoded", replace_invalid(text));
    EXPECT_EQ(decode(*tokenizer_, ids_of(golden["ids"])), expected) << text;
  }
}

TEST_P(TokenizerVectors, StreamsWhatItDecodes) {
  for (const auto& [text, golden] : vectors_) {
    const auto ids = tokenizer_->encode(text);
    StreamDecoder decoder(*tokenizer_, StreamDecoder::Start::kText);
    std::string streamed;
    for (const int id : ids) {
      const std::string part = decoder.push(id);
      EXPECT_TRUE(is_valid(part)) << text;
      streamed += part;
    }
    streamed += decoder.finish();
    EXPECT_TRUE(is_valid(streamed)) << text;
    EXPECT_EQ(streamed, decode(*tokenizer_, ids)) << text;
  }
}

TEST_P(TokenizerVectors, HasEveryIdBelowItsSize) {
  std::set<int> ids;
  for (const auto& [text, golden] : vectors_) {
    for (const int id : tokenizer_->encode(text)) ids.insert(id);
  }
  EXPECT_GE(*ids.begin(), 0);
  EXPECT_LT(*ids.rbegin(), tokenizer_->vocab_size());
  EXPECT_EQ(tokenizer_->piece(-1), "");
  EXPECT_EQ(tokenizer_->piece(tokenizer_->vocab_size()), "");
  EXPECT_GT(tokenizer_->memory_bytes(), 1000U);
}

std::string name_of(const ::testing::TestParamInfo<Case>& info) { return info.param.directory; }

const std::vector<Case> kWithSpecialTokensAlone = {{"opt", "opt"},
                                                   {"opt_json", "opt"},
                                                   {"galactica", "galactica"},
                                                   {"sentencepiece_bpe", "sentencepiece_bpe"},
                                                   {"sentencepiece_unigram", "sentencepiece_unigram"}};
INSTANTIATE_TEST_SUITE_P(Fixtures, TokenizerVectors, ::testing::ValuesIn(kWithSpecialTokensAlone), name_of);
INSTANTIATE_TEST_SUITE_P(Flags, TokenizerVectors, ::testing::Values(Case{"flags", "flags"}), name_of);
INSTANTIATE_TEST_SUITE_P(Fixtures, SpecialTokensAsText, ::testing::ValuesIn(kWithSpecialTokensAlone), name_of);

TEST(Decode, AnswersIdsInAnyOrderAsThePeer) {
  const auto tokenizer = open_tokenizer(fixtures() / "opt");
  for (const auto& golden : testing::read_lines(fixtures() / "opt" / "random_ids.jsonl")) {
    EXPECT_EQ(decode(*tokenizer, ids_of(golden["ids"])), golden["decoded"].get<std::string>()) << golden["ids"];
  }
}

}  // namespace
}  // namespace nibble
