// Byte-level BPE as a Tokenizer: added tokens, normalizer, pre-tokenizer, merges and template in the order of Hugging
// Face's tokenizers. Made from tokenizer.json or from vocab.json + merges.txt; the parsers take the text of the files,
// and `file` only for their messages.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe.h"
#include "tokenizer/piece_table.h"
#include "tokenizer/pretokenizer.h"
#include "tokenizer/settings.h"
#include "tokenizer/tokenizer.h"

namespace nibble {

/// Throws Error naming `file` and the field that is damaged or that nibble does not know.
std::unique_ptr<Tokenizer> parse_tokenizer_json(std::string_view text, const std::string& file,
                                                const Settings& settings);

/// The two files of GPT-2 and OPT, with OPT's special tokens where the settings name none: `</s>` begins a text.
std::unique_ptr<Tokenizer> parse_vocab_and_merges(std::string_view vocab, const std::string& vocab_file,
                                                  std::string_view merges, const std::string& merges_file,
                                                  Settings settings);

/// The object of `"token": id` pairs that both files hold.
Vocabulary parse_vocabulary(const JsonValue& object);

class BpeTokenizer : public Tokenizer {
 public:
  struct Parts {
    BpeDefinition bpe;
    std::vector<AddedToken> added;  ///< as with_settings returns them
    Normalizer normalizer = keep_as_written;
    Pretokenizer pretokenizer;
    Template ends;
  };

  BpeTokenizer(Parts parts, const std::string& file);

  std::vector<int> encode(std::string_view text, SpecialTokens special) const override;
  const Template& ends() const override { return ends_; }
  std::string_view piece(int id) const override { return pieces_[id]; }
  bool drops_leading_space() const override { return false; }
  int vocab_size() const override { return pieces_.size(); }
  std::size_t memory_bytes() const override;

 private:
  Bpe bpe_;
  AddedTokens added_;
  Normalizer normalizer_;
  Pretokenizer pretokenizer_;
  Template ends_;
  PieceTable pieces_;
};

}  // namespace nibble
