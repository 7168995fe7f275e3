// Cuts a text into the pieces that byte-pair encoding works on, in the steps tokenizer.json calls pre-tokenizers.
// Immutable and thread-safe once its steps are added.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/regex.h"

namespace nibble {

/// Non-empty pieces of text, one after another in one string.
struct Pieces {
  std::string text;
  std::vector<std::size_t> ends;

  void add(std::string_view piece);

  template <class Visit>
  void for_each(Visit visit) const {
    std::size_t begin = 0;
    for (const std::size_t end : ends) {
      visit(std::string_view(text).substr(begin, end - begin));
      begin = end;
    }
  }
};

/// What becomes of the matches of a pattern and of the text between them (tokenizers, SplitDelimiterBehavior).
enum class SplitBehavior {
  kRemoved,             ///< matches are dropped
  kIsolated,            ///< each is a piece of its own
  kMergedWithPrevious,  ///< a match ends the piece before it
  kMergedWithNext,      ///< a match begins the piece after it
  kContiguous,          ///< matches that touch are one piece
};

/// Whether the pattern describes the delimiters or the text between them.
enum class SplitOn { kMatches, kGaps };

class Pretokenizer {
 public:
  void add_split(const Regex& regex, SplitBehavior behavior, SplitOn on);
  /// A space before every piece that does not begin with one.
  void add_prefix_space();
  /// Pieces in the alphabet of byte_level.h.
  void add_byte_level();

  /// The pieces of valid UTF-8 `text`.
  Pieces operator()(std::string_view text) const;

 private:
  std::vector<std::function<Pieces(const Pieces&)>> steps_;
};

/// The pattern of GPT-2 (openai/gpt-2, src/encoder.py).
inline constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

}  // namespace nibble
