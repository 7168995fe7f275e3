// Streaming: whole characters only, at most three bytes held back.
#include "tokenizer/stream_decoder.h"

#include <gtest/gtest.h>

namespace nibble {
namespace {

using Start = StreamDecoder::Start;

/// Token i is the byte i; 256 is " a", 257 has no text.
class Bytes : public Tokenizer {
 public:
  explicit Bytes(bool drops_leading_space = false) : drops_leading_space_(drops_leading_space) {
    for (int b = 0; b < 256; ++b) pieces_.emplace_back(1, static_cast<char>(b));
    pieces_.insert(pieces_.end(), {" a", ""});
  }
  std::vector<int> encode(std::string_view text, SpecialTokens) const override {
    std::vector<int> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  const Template& ends() const override { return ends_; }
  std::string_view piece(int id) const override { return pieces_[static_cast<std::size_t>(id)]; }
  bool drops_leading_space() const override { return drops_leading_space_; }
  int vocab_size() const override { return 258; }
  std::size_t memory_bytes() const override { return 0; }

 private:
  bool drops_leading_space_;
  Template ends_;
  std::vector<std::string> pieces_;
};

std::vector<std::string> parts_of(std::string_view bytes) {
  const Bytes tokenizer;
  StreamDecoder decoder(tokenizer, Start::kText);
  std::vector<std::string> parts;
  for (const int id : tokenizer.encode(bytes, SpecialTokens::kText)) parts.push_back(decoder.push(id));
  parts.push_back(decoder.finish());
  return parts;
}

TEST(StreamDecoder, HoldsACharacterUntilItIsWhole) {
  EXPECT_EQ(parts_of("a\u00e9\U0001f600b"),
            (std::vector<std::string>{"a", "", "\u00e9", "", "", "", "\U0001f600", "b", ""}));
}

TEST(StreamDecoder, ReplacesWhatCanNoLongerBecomeACharacter) {
  EXPECT_EQ(parts_of("\xf0\x9f\x98x"), (std::vector<std::string>{"", "", "", "\ufffdx", ""}));
  EXPECT_EQ(parts_of("\xff\xc0"), (std::vector<std::string>{"\ufffd", "\ufffd", ""}));
  EXPECT_EQ(parts_of("\xe2\x82\xf0"), (std::vector<std::string>{"", "", "\ufffd", "\ufffd"}));
  EXPECT_EQ(parts_of("\xed\xa0\x80"), (std::vector<std::string>{"", "\ufffd\ufffd", "\ufffd", ""}));
}

TEST(StreamDecoder, ReplacesWhatIsLeftAtTheEnd) {
  EXPECT_EQ(parts_of("a\xe2\x82"), (std::vector<std::string>{"a", "", "", "\ufffd"}));
}

TEST(StreamDecoder, IsFreshAfterFinish) {
  const Bytes tokenizer;
  StreamDecoder decoder(tokenizer, Start::kText);
  EXPECT_EQ(decoder.push(0xE2), "");
  EXPECT_EQ(decoder.finish(), "\ufffd");
  EXPECT_EQ(decoder.push('x'), "x");
  EXPECT_EQ(decoder.finish(), "");
}

TEST(StreamDecoder, DropsTheSpaceBeforeATextAndNoOther) {
  const Bytes tokenizer(true);
  StreamDecoder text(tokenizer, Start::kText);
  EXPECT_EQ(text.push(257), "");
  EXPECT_EQ(text.push(256), "a");
  EXPECT_EQ(text.push(256), " a");
  StreamDecoder continuation(tokenizer, Start::kContinuation);
  EXPECT_EQ(continuation.push(256), " a");
  StreamDecoder none(tokenizer, Start::kText);
  EXPECT_EQ(none.push('x'), "x");
  EXPECT_EQ(none.push(256), " a");
}

TEST(StreamDecoder, KeepsASpaceThatIsPartOfTheText) {
  const Bytes tokenizer;
  StreamDecoder decoder(tokenizer, Start::kText);
  EXPECT_EQ(decoder.push(256), " a");
}

}  // namespace
}  // namespace nibble
