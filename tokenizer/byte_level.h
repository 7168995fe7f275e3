// GPT-2's alphabet of bytes: every byte is written as one printable character, so that a vocabulary of bytes can be
// kept in a JSON file (Radford et al. 2019; the table is in openai/gpt-2, src/encoder.py, bytes_to_unicode).
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace nibble {

/// The characters that stand for `bytes`, as UTF-8.
std::string to_byte_level(std::string_view bytes);

/// The byte a character stands for; nothing for a character outside the alphabet.
std::optional<unsigned char> byte_of(char32_t character);

/// The bytes of a token of the vocabulary. A token with a character outside the alphabet (an added token with a space)
/// stands for its own UTF-8, as in Hugging Face's ByteLevel decoder.
std::string from_byte_level(std::string_view token);

}  // namespace nibble
