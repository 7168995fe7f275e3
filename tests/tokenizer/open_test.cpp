// Finding a tokenizer in a directory, its settings, and the sentence for every way a file can be damaged.
#include <gtest/gtest.h>

#include "tests/tokenizer/tokenizer_testing.h"
#include "tokenizer/tokenizer.h"

namespace nibble {
namespace {

using nlohmann::json;
using testing::fixtures;
using testing::read_file;
using testing::sentence_of;
using testing::TemporaryDirectory;
using Ids = std::vector<int>;

/// A copy of a fixture whose files can be changed.
class Copy {
 public:
  explicit Copy(const std::string& fixture) {
    for (const auto& entry : std::filesystem::directory_iterator(fixtures() / fixture)) {
      directory_.write(entry.path().filename().string(), read_file(entry.path()));
    }
  }
  void write(const std::string& name, std::string_view text) const { directory_.write(name, text); }
  void remove(const std::string& name) const { std::filesystem::remove(directory_.path() / name); }
  template <class Change>
  void change(const std::string& name, Change change) const {
    json value = json::parse(read_file(directory_.path() / name));
    change(value);
    write(name, value.dump());
  }
  bool has_any() const { return has_tokenizer(directory_.path()); }
  std::unique_ptr<Tokenizer> open() const { return open_tokenizer(directory_.path()); }
  /// That opening fails with a sentence that names the file and says `what`.
  void expect_error(const std::string& file, const std::string& what) const {
    const std::string sentence = sentence_of([this] { open(); });
    EXPECT_TRUE(sentence.starts_with((directory_.path() / file).string())) << sentence;
    EXPECT_NE(sentence.find(what), std::string::npos) << sentence;
    EXPECT_TRUE(sentence.ends_with('.')) << sentence;
  }

 private:
  TemporaryDirectory directory_;
};

TEST(OpenTokenizer, FindsNothingInADirectoryWithoutOne) {
  const TemporaryDirectory directory;
  EXPECT_EQ(open_tokenizer(directory.path()), nullptr);
  EXPECT_FALSE(has_tokenizer(directory.path()));
}

TEST(OpenTokenizer, PrefersTokenizerJson) {
  const Copy copy("opt_json");
  copy.write("vocab.json", "damaged");
  copy.write("tokenizer.model", "damaged");
  EXPECT_EQ(copy.open()->encode(""), Ids{2});
}

TEST(OpenTokenizer, NamesTheAbsentHalfOfAPair) {
  const Copy copy("opt");
  copy.remove("merges.txt");
  EXPECT_TRUE(copy.has_any());
  const auto sentence = sentence_of([&] { copy.open(); });
  EXPECT_NE(sentence.find("has vocab.json but not merges.txt"), std::string::npos) << sentence;
}

TEST(OpenTokenizer, ReadsEveryNameOfASentencePieceModel) {
  for (const std::string name : {"tokenizer.model", "sentencepiece.bpe.model", "spiece.model"}) {
    const TemporaryDirectory directory;
    directory.write(name, read_file(fixtures() / "sentencepiece_bpe" / "tokenizer.model"));
    EXPECT_EQ(open_tokenizer(directory.path())->encode(""), Ids{2}) << name;
  }
}

TEST(Settings, BeginOptsTextsWithItsEndTokenByDefault) {
  const Copy copy("opt");
  copy.remove("tokenizer_config.json");
  const auto tokenizer = copy.open();
  EXPECT_EQ(tokenizer->encode("</s><pad>"), (Ids{2, 2, 1}));
  EXPECT_EQ(tokenizer->piece(1), "");
  EXPECT_EQ(tokenizer->piece(0), "<s>");
}

TEST(Settings, DecideWhatSurroundsAText) {
  for (const std::string fixture : {"opt", "opt_json", "sentencepiece_bpe"}) {
    const Copy copy(fixture);
    copy.change("tokenizer_config.json", [](json& config) {
      config["add_bos_token"] = false;
      config["add_eos_token"] = true;
    });
    EXPECT_EQ(copy.open()->encode(""), Ids{2}) << fixture;
    EXPECT_EQ(copy.open()->encode("</s>"), (Ids{2, 2})) << fixture;
    copy.change("tokenizer_config.json", [](json& config) {
      config["add_bos_token"] = true;
      config["bos_token"] = "<s>";
    });
    EXPECT_EQ(copy.open()->encode(""), (Ids{0, 2})) << fixture;
    EXPECT_EQ(copy.open()->ends().prefix, Ids{0}) << fixture;
    EXPECT_EQ(copy.open()->ends().suffix, Ids{2}) << fixture;
  }
}

TEST(Settings, ComeFromSpecialTokensMapWhereTheConfigIsSilent) {
  const Copy copy("opt");
  copy.write("tokenizer_config.json", "{}");
  copy.write("special_tokens_map.json", R"({"bos_token": "<s>", "pad_token": {"content": "<mask>"}})");
  EXPECT_EQ(copy.open()->encode("<mask>"), (Ids{0, 4}));
}

TEST(Settings, AddTokensByTheirIds) {
  const Copy copy("opt");
  copy.change("tokenizer_config.json", [](json& config) {
    config["added_tokens_decoder"] = {{"700", {{"content", "<new>"}}}};
  });
  const auto tokenizer = copy.open();
  EXPECT_EQ(tokenizer->encode("<new>"), (Ids{2, 700}));
  EXPECT_EQ(tokenizer->piece(700), "<new>");
  EXPECT_EQ(tokenizer->vocab_size(), 701);
}

TEST(Settings, NameATokenThatTheVocabularyLacks) {
  const Copy copy("opt");
  copy.change("tokenizer_config.json", [](json& config) { config["bos_token"] = "<none>"; });
  copy.expect_error("tokenizer_config.json", "the bos_token \"<none>\" is not in the vocabulary");
}

TEST(Settings, NameAnIdThatContradictsTheVocabulary) {
  const Copy copy("opt");
  copy.change("tokenizer_config.json", [](json& config) {
    config["added_tokens_decoder"] = {{"7", {{"content", "</s>"}}}};
  });
  copy.expect_error("tokenizer_config.json", "\"</s>\" has id 7, which contradicts id 2");
  copy.change("tokenizer_config.json", [](json& config) {
    config["added_tokens_decoder"] = {{"7", {{"content", "<new>"}}}};
  });
  copy.expect_error("tokenizer_config.json", "\"<new>\" has id 7, which is the id of another token");
  copy.change("tokenizer_config.json", [](json& config) {
    config["added_tokens_decoder"] = {{"-1", {{"content", "<new>"}}}};
  });
  copy.expect_error("tokenizer_config.json", "added_tokens_decoder.-1");
}

TEST(Settings, NameAFieldOfTheWrongType) {
  const Copy copy("sentencepiece_bpe");
  copy.change("tokenizer_config.json", [](json& config) { config["add_bos_token"] = "yes"; });
  copy.expect_error("tokenizer_config.json", "\"add_bos_token\" must be true or false, not string");
  copy.write("tokenizer_config.json", "[]");
  copy.expect_error("tokenizer_config.json", "the top level must be an object, not array");
}

TEST(Settings, NameSpecialTokensMapWhenThatIsDamaged) {
  const Copy copy("opt");
  copy.write("special_tokens_map.json", "{");
  copy.expect_error("special_tokens_map.json", "is not valid JSON");
}

TEST(OpenTokenizer, NamesAFileThatCannotBeRead) {
  const TemporaryDirectory directory;
  std::filesystem::create_directory(directory.path() / "tokenizer.json");
  const auto sentence = sentence_of([&] { open_tokenizer(directory.path()); });
  EXPECT_NE(sentence.find("tokenizer.json cannot be read"), std::string::npos) << sentence;
}

TEST(VocabJson, NamesWhatIsDamaged) {
  const Copy copy("opt");
  copy.write("vocab.json", R"({"a": 0,)");
  copy.expect_error("vocab.json", "is not valid JSON: the fault is at byte 8 of 8");
  copy.write("vocab.json", "{}");
  copy.expect_error("vocab.json", "is empty");
  copy.write("vocab.json", R"(["a"])");
  copy.expect_error("vocab.json", "must be an object, not array");
  copy.write("vocab.json", R"({"a": "b"})");
  copy.expect_error("vocab.json", "\"a\" must be a token id, not string");
  copy.write("vocab.json", R"({"a": -1})");
  copy.expect_error("vocab.json", "\"a\" must be a token id from 0 to 1048575, not -1");
  copy.write("vocab.json", R"({"a": 99999999999999999999})");
  copy.expect_error("vocab.json", "\"a\" must be a token id");
  copy.write("vocab.json", R"({"a": 1, "b": 1})");
  copy.expect_error("vocab.json", "\"b\" has id 1, which another token has too");
  copy.write("vocab.json", "{\"a\xff\": 1}");
  copy.expect_error("vocab.json", "is not valid JSON");
}

TEST(MergesTxt, NamesTheLineOrTheSymbolThatIsDamaged) {
  const Copy copy("opt");
  copy.write("merges.txt", "#version: 0.2\na b\nthree symbols here\n");
  copy.expect_error("merges.txt", "line 3 must be two symbols with a space between, not \"three symbols here\"");
  copy.write("merges.txt", "a \n");
  copy.expect_error("merges.txt", "line 1 must be two symbols");
  copy.write("merges.txt", "t h\nt \u4e16\n");
  copy.expect_error("merges.txt", "symbol of merge 2 \"\u4e16\" is not in the vocabulary");
  copy.write("merges.txt", "t q\n");
  copy.expect_error("merges.txt", "the product of merge 1 \"tq\" is not in the vocabulary");
}

TEST(MergesTxt, MayEndItsLinesAsWindowsDoes) {
  const Copy copy("opt");
  const Ids ids = copy.open()->encode("the windows");
  std::string text = read_file(fixtures() / "opt" / "merges.txt");
  for (std::size_t at = 0; (at = text.find('\n', at)) != std::string::npos; at += 2) text.replace(at, 1, "\r\n");
  copy.write("merges.txt", text);
  EXPECT_EQ(copy.open()->encode("the windows"), ids);
}

TEST(TokenizerJson, ReadsMergesAsStringsAndAsPairs) {
  const Copy copy("opt_json");
  const Ids ids = copy.open()->encode("merges as strings and as pairs");
  copy.change("tokenizer.json", [](json& value) {
    for (json& merge : value["model"]["merges"]) {
      merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
    }
  });
  EXPECT_EQ(copy.open()->encode("merges as strings and as pairs"), ids);
}

/// A change of the fixture's tokenizer.json and what the sentence says of it.
struct Damage {
  const char* pointer;
  json value;
  const char* sentence;
};

class TokenizerJsonDamage : public ::testing::TestWithParam<Damage> {};

TEST_P(TokenizerJsonDamage, IsNamed) {
  const Copy copy("opt_json");
  copy.change("tokenizer.json", [](json& value) { value[json::json_pointer(GetParam().pointer)] = GetParam().value; });
  copy.expect_error("tokenizer.json", GetParam().sentence);
}

INSTANTIATE_TEST_SUITE_P(
    Fields, TokenizerJsonDamage,
    ::testing::Values(
        Damage{"/model/type", "WordPiece", "\"model\" has the type \"WordPiece\", which nibble does not support"},
        Damage{"/model", nullptr, "must have a field \"model\""},
        Damage{"/model/vocab", json::array(), "\"model.vocab\" must be an object"},
        Damage{"/model/merges", "a b", "\"model.merges\" must be an array"},
        Damage{"/model/merges/3", "abc", "\"model.merges[3]\" must be two symbols"},
        Damage{"/model/merges/3", json::array({"a"}), "\"model.merges[3]\" must be two symbols"},
        Damage{"/model/merges/3", json::array({"a", 1}), "\"model.merges[3][1]\" must be a string, not number"},
        Damage{"/model/merges/3", json::array({"a", "nowhere"}), "symbol of merge 4 \"nowhere\" is not in the vocab"},
        Damage{"/model/dropout", 0.1, "\"model.dropout\" makes the ids random"},
        Damage{"/model/byte_fallback", true, "\"byte_fallback\""},
        Damage{"/model/end_of_word_suffix", "</w>", "\"model.end_of_word_suffix\" is \"</w>\""},
        Damage{"/model/unk_token", "<none>", "the unknown token \"<none>\" is not in the vocabulary"},
        Damage{"/model/new_field", 1, "has a field \"new_field\", which nibble does not know"},
        Damage{"/normalizer", {{"type", "Lowercase"}}, "\"normalizer\" has the type \"Lowercase\""},
        Damage{"/pre_tokenizer", {{"type", "Whitespace"}}, "\"pre_tokenizer\" has the type \"Whitespace\""},
        Damage{"/pre_tokenizer", {{"type", "Digits"}}, "has no ByteLevel pre-tokenizer"},
        Damage{"/pre_tokenizer/use_regex", 1, "\"pre_tokenizer.use_regex\" must be true or false"},
        Damage{"/decoder", {{"type", "WordPiece"}}, "\"decoder\" has the type \"WordPiece\""},
        Damage{"/post_processor", {{"type", "BertProcessing"}}, "\"post_processor\" has the type \"BertProcessing\""},
        Damage{"/post_processor/single", json::array({{{"Sequence", {{"id", "B"}}}}}), "must be the only sequence"},
        Damage{"/added_tokens/0/id", -5, "\"added_tokens[0].id\" must be a token id"},
        Damage{"/added_tokens/0/content", nullptr, "\"added_tokens[0]\" must have a field \"content\""},
        Damage{"/surprise", 1, "has a field \"surprise\", which nibble does not know"}));

TEST(TokenizerJson, RefusesANestOfSequences) {
  const Copy copy("opt_json");
  copy.change("tokenizer.json", [](json& value) {
    const json sequence = {{"type", "Sequence"}, {"pretokenizers", {value["pre_tokenizer"]}}};
    value["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {sequence}}};
  });
  copy.expect_error("tokenizer.json", "\"pre_tokenizer.pretokenizers[0]\" has the type \"Sequence\"");
}

TEST(SentencePiece, NamesADamagedModel) {
  const Copy copy("sentencepiece_bpe");
  const std::string model = read_file(fixtures() / "sentencepiece_bpe" / "tokenizer.model");
  copy.write("tokenizer.model", "no protocol buffer");
  copy.expect_error("tokenizer.model", "is not a SentencePiece model");
  copy.write("tokenizer.model", model.substr(0, model.size() / 2));
  copy.expect_error("tokenizer.model", "is not a SentencePiece model");
  copy.write("tokenizer.model", "");
  copy.expect_error("tokenizer.model", "is not a SentencePiece model");
}

}  // namespace
}  // namespace nibble
