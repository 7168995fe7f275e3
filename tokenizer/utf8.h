// UTF-8, one character at a time. Invalid bytes are divided into maximal parts as in the Unicode Standard 15.0,
// section 3.9 (U+FFFD substitution of maximal subparts), which Python's errors="replace" and Rust's from_utf8_lossy do.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace nibble {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

enum class Utf8Part {
  kCharacter,   ///< one whole character
  kInvalid,     ///< bytes that no continuation can make a character
  kIncomplete,  ///< the beginning of a character, cut off by the end of the bytes
};

struct Utf8Step {
  Utf8Part part;
  std::size_t length;
};

/// What `bytes` (not empty) begins with.
Utf8Step first_part(std::string_view bytes);

/// `bytes` with U+FFFD for each invalid or incomplete part.
std::string replace_invalid(std::string_view bytes);

/// The code point of the character that valid UTF-8 `text` (not empty) begins with.
char32_t first_code_point(std::string_view text);

void append_code_point(std::string& text, char32_t code_point);

/// Unicode White_Space, what `\s` means to Hugging Face's tokenizers.
bool is_white_space(char32_t code_point);

}  // namespace nibble
