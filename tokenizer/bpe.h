// Byte-pair encoding: symbols of a piece are joined pair by pair, the pair learned first before the others
// (Sennrich et al., arXiv:1508.07909). Immutable and thread-safe once made.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tokenizer/pretokenizer.h"

namespace nibble {

using Vocabulary = std::unordered_map<std::string, int>;

/// What the files say, in the alphabet of byte_level.h.
struct BpeDefinition {
  Vocabulary vocabulary;
  std::vector<std::pair<std::string, std::string>> merges;  ///< in the order they were learned
  std::optional<std::string> unknown;                       ///< stands for characters the vocabulary lacks
  bool fuse_unknown = false;                                ///< one for a run of them
  bool ignore_merges = false;                               ///< a piece that is a token is that token
};

class Bpe {
 public:
  /// Throws Error naming `file` when a merge or the unknown token is not in the vocabulary.
  Bpe(const BpeDefinition& definition, const std::string& file);

  /// Appends the ids of `pieces`, which are valid UTF-8.
  void encode(const Pieces& pieces, std::vector<int>& ids) const;

  std::size_t memory_bytes() const;

 private:
  struct Merge {
    std::uint32_t rank;
    int id;
  };
  class Word;

  const Merge* find(int left, int right) const;
  void encode_piece(std::string_view piece, Word& word, std::vector<int>& ids) const;
  void spell(std::string_view piece, Word& word) const;

  std::unordered_map<std::uint64_t, Merge> merges_;    ///< by the ids of the pair
  std::unordered_map<char32_t, int> characters_;       ///< tokens of one character
  std::unordered_map<std::string, int> whole_pieces_;  ///< the vocabulary, when merges may be ignored
  std::optional<int> unknown_;
  bool fuse_unknown_;
};

}  // namespace nibble
