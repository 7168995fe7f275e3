// Tokens that are found in a text before anything else is done with it: `</s>`, `<pad>`, `[START_REF]`.
// Immutable and thread-safe once made.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizer/normalizer.h"
#include "tokenizer/regex.h"

namespace nibble {

/// The fields of tokenizer.json's `added_tokens`.
struct AddedToken {
  int id = 0;
  std::string content;
  bool single_word = false;  ///< not where a word goes on before or after it
  bool lstrip = false;       ///< takes the white space before it along
  bool rstrip = false;       ///< takes the white space after it along
  bool normalized = false;   ///< looked for in the normalized text
  bool special = false;      ///< not part of the text when decoded
};

class AddedTokens {
 public:
  explicit AddedTokens(const std::vector<AddedToken>& tokens, Normalizer normalizer = keep_as_written);

  /// A token, or normalized text between two.
  struct Section {
    std::string text;
    const AddedToken* token;  ///< nullptr for text
  };
  /// `text` divided at the tokens it spells, leftmost and longest first: those not normalized in the text as written,
  /// then the others in what is left of it, normalized. Valid UTF-8 in, valid UTF-8 out, no section empty.
  std::vector<Section> split(std::string_view text) const;

  std::size_t memory_bytes() const;

 private:
  /// Tokens looked for in the same pass.
  class Group {
   public:
    void add(std::string spelling, const AddedToken& token);
    /// Calls on_text and on_token from left to right.
    template <class OnText, class OnToken>
    void scan(std::string_view text, const Regex& word, OnText on_text, OnToken on_token) const;
    std::size_t memory_bytes() const;

   private:
    const AddedToken* longest_at(std::string_view text, std::size_t& length) const;

    std::unordered_map<std::string, AddedToken> tokens_;
    std::array<std::vector<std::size_t>, 256> lengths_;  ///< by first byte, longest first
  };

  Normalizer normalizer_;
  Group as_written_, normalized_;
  Regex word_;
};

}  // namespace nibble
