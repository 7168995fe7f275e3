// Text to ids and back. A tokenizer is found in a checkpoint directory from the files that are there.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

/// How text that spells an added token (`</s>` in a prompt) is read.
enum class SpecialTokens {
  kParse,  ///< as the token it spells, as Hugging Face does
  kText,   ///< as ordinary text: for untrusted input
};

/// Ids put before and after every text.
struct Template {
  std::vector<int> prefix, suffix;
};

/// Immutable and thread-safe once made.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// Ids of UTF-8 `text` between the ends of the template. The same ids as the Hugging Face tokenizer. Invalid UTF-8 is
  /// read as U+FFFD, one for each maximal invalid part.
  virtual std::vector<int> encode(std::string_view text, SpecialTokens special = SpecialTokens::kParse) const = 0;

  /// What the checkpoint puts around every text: `</s>` before it for OPT, nothing for Galactica.
  virtual const Template& ends() const = 0;

  /// The bytes token `id` adds to a running text: any bytes, perhaps part of a character, empty for special tokens and
  /// for ids that no token has (a model's padded logit rows).
  virtual std::string_view piece(int id) const = 0;

  /// Whether a text begins with a space that stands for the start of the text and is not part of it (SentencePiece's
  /// dummy prefix).
  virtual bool drops_leading_space() const = 0;

  /// One more than the largest id a token has.
  virtual int vocab_size() const = 0;

  /// Bytes of memory held by the tables, for the memory ledger (an estimate from container sizes).
  virtual std::size_t memory_bytes() const = 0;
};

/// The UTF-8 text of `ids`: special tokens dropped, invalid UTF-8 replaced by U+FFFD.
std::string decode(const Tokenizer& tokenizer, std::span<const int> ids);

/// The tokenizer of a checkpoint directory, from what it holds, in this order: tokenizer.json, vocab.json + merges.txt,
/// tokenizer.model / sentencepiece.bpe.model / spiece.model; settings from tokenizer_config.json where present.
/// nullptr when the directory holds none of these. Throws Error naming the file and the fault when one is damaged.
std::unique_ptr<Tokenizer> open_tokenizer(const std::filesystem::path& directory);

/// Whether it holds one, or a part or what is left of one. Opens no file.
bool has_tokenizer(const std::filesystem::path& directory);

}  // namespace nibble
