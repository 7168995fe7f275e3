#include "tokenizer/byte_level.h"

#include <array>

#include "tokenizer/utf8.h"

namespace nibble {
namespace {

constexpr bool stands_for_itself(unsigned byte) {
  return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

constexpr std::size_t kAlphabetEnd = 0x100 + 68;  // the 68 other bytes are U+0100, U+0101, … in ascending order

struct Alphabet {
  std::array<char32_t, 256> character{};
  std::array<short, kAlphabetEnd> byte{};  // -1: no byte

  constexpr Alphabet() {
    byte.fill(-1);
    char32_t next = 0x100;
    for (unsigned b = 0; b < 256; ++b) {
      character[b] = stands_for_itself(b) ? b : next++;
      byte[character[b]] = static_cast<short>(b);
    }
  }
};

constexpr Alphabet kAlphabet;

}  // namespace

std::string to_byte_level(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size() + bytes.size() / 4);
  for (const char b : bytes) append_code_point(text, kAlphabet.character[static_cast<unsigned char>(b)]);
  return text;
}

std::optional<unsigned char> byte_of(char32_t character) {
  if (character >= kAlphabetEnd || kAlphabet.byte[character] < 0) return std::nullopt;
  return static_cast<unsigned char>(kAlphabet.byte[character]);
}

std::string from_byte_level(std::string_view token) {
  std::string bytes;
  for (std::string_view rest = token; !rest.empty(); rest.remove_prefix(first_part(rest).length)) {
    const auto byte = byte_of(first_code_point(rest));
    if (!byte) return std::string(token);
    bytes += static_cast<char>(*byte);
  }
  return bytes;
}

}  // namespace nibble
