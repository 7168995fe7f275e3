// The parts below a tokenizer: UTF-8, the byte alphabet, patterns, splitting, added tokens, merges.
#include <gtest/gtest.h>

#include "tests/tokenizer/tokenizer_testing.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/charsmap.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/pretokenizer.h"
#include "tokenizer/utf8.h"

namespace nibble {
namespace {

using testing::sentence_of;
using Strings = std::vector<std::string>;

TEST(Utf8, WritesAndReadsEveryCodePoint) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    append_code_point(text, c);
    const auto [part, length] = first_part(text);
    ASSERT_EQ(part, Utf8Part::kCharacter) << static_cast<unsigned>(c);
    ASSERT_EQ(length, text.size()) << static_cast<unsigned>(c);
    ASSERT_EQ(first_code_point(text), c);
  }
}

TEST(Utf8, ReplacesEachMaximalInvalidPartOnce) {
  EXPECT_EQ(replace_invalid("a\xf0\x9f\x98\xf0\x9f\x98\x80\xff"), "a\ufffd\U0001f600\ufffd");
  EXPECT_EQ(replace_invalid("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41"),
            "\ufffd\ufffd\ufffd\ufffdA");  // Unicode, table 3-8
  EXPECT_EQ(replace_invalid("\xc0\xaf\xe0\x80\xbf"), "\ufffd\ufffd\ufffd\ufffd\ufffd");
}

TEST(ByteLevel, IsOneToOneOnAllBytes) {
  std::string bytes;
  for (int b = 0; b < 256; ++b) bytes += static_cast<char>(b);
  EXPECT_EQ(from_byte_level(to_byte_level(bytes)), bytes);
  EXPECT_EQ(to_byte_level(" \n\t\r\xad"), "\u0120\u010a\u0109\u010d\u0143");
}

TEST(ByteLevel, LeavesATokenOutsideTheAlphabetAsItIs) { EXPECT_EQ(from_byte_level("\u0120a b"), "\u0120a b"); }

Strings split(const std::string& pattern, SplitBehavior behavior, SplitOn on, std::string_view text) {
  Pretokenizer pretokenizer;
  pretokenizer.add_split(Regex(pattern, Regex::Syntax::kOniguruma, "file"), behavior, on);
  Strings pieces;
  pretokenizer(text).for_each([&](std::string_view piece) { pieces.emplace_back(piece); });
  return pieces;
}

TEST(Split, KeepsOrDropsMatchesAsTheBehaviorSays) {
  const auto with = [](SplitBehavior behavior, SplitOn on) { return split("-", behavior, on, "a--b-c"); };
  using enum SplitBehavior;
  EXPECT_EQ(with(kRemoved, SplitOn::kMatches), (Strings{"a", "b", "c"}));
  EXPECT_EQ(with(kRemoved, SplitOn::kGaps), (Strings{"-", "-", "-"}));
  EXPECT_EQ(with(kIsolated, SplitOn::kMatches), (Strings{"a", "-", "-", "b", "-", "c"}));
  EXPECT_EQ(with(kContiguous, SplitOn::kMatches), (Strings{"a", "--", "b", "-", "c"}));
  // As in the documentation of tokenizers' SplitDelimiterBehavior for "the-final--countdown".
  EXPECT_EQ(split("-", kMergedWithPrevious, SplitOn::kMatches, "the-final--countdown"),
            (Strings{"the-", "final-", "-", "countdown"}));
  EXPECT_EQ(split("-", kMergedWithNext, SplitOn::kMatches, "the-final--countdown"),
            (Strings{"the", "-final", "-", "-countdown"}));
}

TEST(Split, CutsAtMatchesWithoutLength) {
  EXPECT_EQ(split("(?=b)", SplitBehavior::kIsolated, SplitOn::kMatches, "abab"), (Strings{"a", "ba", "b"}));
}

TEST(Gpt2Pattern, ReadsWhiteSpaceAsUnicodeDoes) {
  const auto gpt2 = [](std::string_view text) {
    return split(std::string(kGpt2Pattern), SplitBehavior::kIsolated, SplitOn::kMatches, text);
  };
  EXPECT_EQ(gpt2("a \u180e b"), (Strings{"a", " \u180e", " b"}));
  EXPECT_EQ(gpt2("a\x1c b"), (Strings{"a", "\x1c", " b"}));
  EXPECT_EQ(gpt2("a\u0085\u0085b"), (Strings{"a", "\u0085", "\u0085", "b"}));
  EXPECT_EQ(gpt2("a\u200bb"), (Strings{"a", "\u200b", "b"}));
  EXPECT_EQ(gpt2("x   y  "), (Strings{"x", "  ", " y", "  "}));
}

TEST(Gpt2Pattern, KnowsTheLettersAndNumbersOfUnicode16) {
  EXPECT_EQ(
      split(std::string(kGpt2Pattern), SplitBehavior::kIsolated, SplitOn::kMatches, "a\u1c89\U00010d40!\U00031350"),
      (Strings{"a\u1c89", "\U00010d40", "!", "\U00031350"}));
}

TEST(Regex, RefusesWhatItWouldReadOtherwise) {
  for (const std::string pattern : {"\\h+", "[a-z&&[^x]]", "[a[b]]", "(?m:.)", "[\\P{L}]", "(*LIMIT_HEAP=1)a"}) {
    const auto sentence = sentence_of([&] { Regex(pattern, Regex::Syntax::kOniguruma, "some.json"); });
    EXPECT_NE(sentence.find("some.json: the pre-tokenizer pattern \"" + pattern), std::string::npos) << sentence;
  }
}

TEST(Regex, NamesADamagedPattern) {
  const auto sentence = sentence_of([] { Regex("a(b", Regex::Syntax::kOniguruma, "some.json"); });
  EXPECT_NE(sentence.find("\"a(b\" is not a valid regular expression"), std::string::npos) << sentence;
}

TEST(Regex, GivesUpOnAPatternThatBacktracksWithoutEnd) {
  const auto sentence =
      sentence_of([] { split("(a|a)*b", SplitBehavior::kIsolated, SplitOn::kMatches, std::string(40, 'a') + "cb"); });
  EXPECT_NE(sentence.find("gives up on this text"), std::string::npos) << sentence;
}

TEST(Nfkc, ComposesAndKeepsCharactersNewerThanUnicode9) {
  EXPECT_EQ(nfkc("\ufb01e\u0301\u00bd"), "fi\u00e91\u20442");
  EXPECT_EQ(nfkc("\u32ff\U0001e030"), "\u32ff\U0001e030");
  EXPECT_EQ(nfkc("\u0139\u0d3b\u0323"), "\u0139\u0d3b\u0323") << "U+0D3B came with Unicode 10";
}

TEST(AddedTokens, TakesTheLongestAtTheLeftmostPlace) {
  const AddedTokens tokens({{.id = 1, .content = "<a>"}, {.id = 2, .content = "<a><b>"}, {.id = 3, .content = "b"}});
  std::vector<int> ids;
  for (const auto& section : tokens.split("x<a><b><a>b<")) ids.push_back(section.token ? section.token->id : 0);
  EXPECT_EQ(ids, (std::vector<int>{0, 2, 1, 3, 0}));
}

/// A ModelProto with nothing but this table of normalized characters, shorter than 124 bytes.
std::string model_with(const std::string& charsmap) {
  const std::string field = std::string("\x12") + static_cast<char>(charsmap.size()) + charsmap;
  return std::string("\x1A") + static_cast<char>(field.size()) + field;
}

TEST(Charsmap, MayBeAbsentOrEmpty) {
  EXPECT_NO_THROW(check_charsmap("", "some.model"));
  EXPECT_NO_THROW(check_charsmap(model_with(""), "some.model"));
}

TEST(Charsmap, IsRefusedWhereItLeadsOutsideOfItself) {
  using namespace std::string_literals;
  for (const std::string& charsmap :
       {"\x04"s, "\x08\0\0\0\0\0\0\0"s, "\x04\0\0\0\0\x04\0\0x\0"s, "\xFF\xFF\xFF\xFF"s}) {
    const auto sentence = sentence_of([&] { check_charsmap(model_with(charsmap), "some.model"); });
    EXPECT_NE(sentence.find("some.model is not a SentencePiece model: its table"), std::string::npos) << sentence;
  }
}

TEST(Charsmap, IsNotLookedForInWhatIsNoMessage) {
  EXPECT_NE(sentence_of([] { check_charsmap("\x1A\x7F", "some.model"); }).find("ends in the middle"),
            std::string::npos);
  EXPECT_NE(sentence_of([] { check_charsmap("\x0B", "some.model"); }).find("wire type 3"), std::string::npos);
}

std::vector<int> merge(const Bpe& bpe, std::string_view piece) {
  Pieces pieces;
  pieces.add(piece);
  std::vector<int> ids;
  bpe.encode(pieces, ids);
  return ids;
}

TEST(Bpe, JoinsThePairLearnedFirst) {
  BpeDefinition definition{.vocabulary = {{"a", 0}, {"b", 1}, {"c", 2}, {"ab", 3}, {"bc", 4}, {"abc", 5}},
                           .merges = {{"b", "c"}, {"a", "b"}, {"a", "bc"}},
                           .unknown = {}};
  const Bpe bpe(definition, "file");
  EXPECT_EQ(merge(bpe, "abc"), std::vector<int>{5});
  EXPECT_EQ(merge(bpe, "abab"), (std::vector<int>{3, 3}));
  EXPECT_EQ(merge(bpe, "aab"), (std::vector<int>{0, 3}));
  EXPECT_EQ(merge(bpe, "axb"), std::vector<int>{3}) << "x is in no token and nothing stands for it";
}

TEST(Bpe, JoinsEqualPairsFromTheLeft) {
  BpeDefinition definition{.vocabulary = {{"a", 0}, {"aa", 1}}, .merges = {{"a", "a"}}, .unknown = {}};
  EXPECT_EQ(merge(Bpe(definition, "file"), "aaaaa"), (std::vector<int>{1, 1, 0}));
}

TEST(Bpe, PutsTheUnknownTokenForCharactersItLacks) {
  BpeDefinition definition{.vocabulary = {{"a", 0}, {"?", 1}}, .merges = {}, .unknown = "?"};
  EXPECT_EQ(merge(Bpe(definition, "file"), "axxa"), (std::vector<int>{0, 1, 1, 0}));
  definition.fuse_unknown = true;
  EXPECT_EQ(merge(Bpe(definition, "file"), "axxa"), (std::vector<int>{0, 1, 0}));
}

}  // namespace
}  // namespace nibble
