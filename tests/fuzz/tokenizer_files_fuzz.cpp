// Tokenizer files of any content: only nibble::Error escapes, and a tokenizer that loads encodes and streams any text.
// The first byte says which file the rest is; the other file of a pair and the settings are small and whole.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "nibble/error.h"
#include "tokenizer/bpe_tokenizer.h"
#include "tokenizer/sentencepiece.h"
#include "tokenizer/stream_decoder.h"
#include "tokenizer/utf8.h"

namespace {

using nibble::SpecialTokens;

constexpr std::string_view kVocab = R"({"<s>":0,"<pad>":1,"</s>":2,"a":3,"b":4,"Ġ":5,"ab":6,"Ġab":7})";
constexpr std::string_view kMerges = "#version: 0.2\na b\nĠ ab\n";
constexpr std::string_view kText =
    "ab a\n\n b1 </s>\xF0\x9F\x98\x80 \xFF it's <pad>\t  [x]=2 e\xCC\x81 \xE2\x96\x81 SPL1T-TH1S-Pl3A5E";

std::unique_ptr<nibble::Tokenizer> parse(unsigned kind, std::string_view text) {
  switch (kind % 5) {
    case 0:
      return nibble::parse_tokenizer_json(text, "tokenizer.json", {});
    case 1:
      return nibble::parse_vocab_and_merges(text, "vocab.json", "", "merges.txt", {});
    case 2:
      return nibble::parse_vocab_and_merges(kVocab, "vocab.json", text, "merges.txt", {});
    case 3:
      return nibble::parse_vocab_and_merges(
          kVocab, "vocab.json", kMerges, "merges.txt",
          nibble::parse_settings(text, "tokenizer_config.json", text, "special_tokens_map.json"));
    default:
      return nibble::parse_sentencepiece(text, "tokenizer.model", {});
  }
}

void require(bool holds) {
  if (!holds) std::abort();
}

void use(const nibble::Tokenizer& tokenizer, std::string_view text, SpecialTokens special) {
  const auto ids = tokenizer.encode(text, special);
  nibble::StreamDecoder decoder(tokenizer, nibble::StreamDecoder::Start::kText);
  std::string streamed;
  for (const int id : ids) {
    require(id >= 0 && id < tokenizer.vocab_size());
    const std::string part = decoder.push(id);
    require(nibble::replace_invalid(part) == part);
    streamed += part;
  }
  streamed += decoder.finish();
  require(streamed == nibble::decode(tokenizer, ids));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    const auto tokenizer = parse(data[0], text);
    use(*tokenizer, kText, SpecialTokens::kParse);
    use(*tokenizer, kText, SpecialTokens::kText);
    use(*tokenizer, text, SpecialTokens::kParse);
  } catch (const nibble::Error&) {
  }
  return 0;
}
