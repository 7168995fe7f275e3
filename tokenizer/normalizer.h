// Unicode normalization of a text before it is tokenized.
#pragma once

#include <string>
#include <string_view>

namespace nibble {

/// From valid UTF-8 to valid UTF-8; a pure function.
using Normalizer = std::string (*)(std::string_view text);

std::string keep_as_written(std::string_view text);

/// Compatibility composition (Unicode Standard Annex 15), of the characters of Unicode 9.0 alone: Hugging Face's
/// tokenizers carries the tables of that version. Galactica uses it.
std::string nfkc(std::string_view text);

}  // namespace nibble
