#include "tokenizer/utf8.h"

#include <algorithm>
#include <array>

namespace nibble {
namespace {

unsigned byte_at(std::string_view text, std::size_t i) { return static_cast<unsigned char>(text[i]); }

/// A row of table 3-7 of the Unicode Standard: lead bytes, the range of the second byte, the length.
struct WellFormed {
  unsigned lead_first, lead_last, second_first, second_last;
  std::size_t length;
};

constexpr std::array<WellFormed, 9> kWellFormed = {{
    {0x00, 0x7F, 0x00, 0xFF, 1},
    {0xC2, 0xDF, 0x80, 0xBF, 2},
    {0xE0, 0xE0, 0xA0, 0xBF, 3},
    {0xE1, 0xEC, 0x80, 0xBF, 3},
    {0xED, 0xED, 0x80, 0x9F, 3},
    {0xEE, 0xEF, 0x80, 0xBF, 3},
    {0xF0, 0xF0, 0x90, 0xBF, 4},
    {0xF1, 0xF3, 0x80, 0xBF, 4},
    {0xF4, 0xF4, 0x80, 0x8F, 4},
}};

}  // namespace

Utf8Step first_part(std::string_view bytes) {
  const unsigned lead = byte_at(bytes, 0);
  const auto row = std::find_if(kWellFormed.begin(), kWellFormed.end(), [&](const WellFormed& candidate) {
    return lead >= candidate.lead_first && lead <= candidate.lead_last;
  });
  if (row == kWellFormed.end()) return {Utf8Part::kInvalid, 1};
  for (std::size_t i = 1; i < row->length; ++i) {
    if (i == bytes.size()) return {Utf8Part::kIncomplete, i};
    const unsigned first = i == 1 ? row->second_first : 0x80;
    const unsigned last = i == 1 ? row->second_last : 0xBF;
    if (byte_at(bytes, i) < first || byte_at(bytes, i) > last) return {Utf8Part::kInvalid, i};
  }
  return {Utf8Part::kCharacter, row->length};
}

std::string replace_invalid(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  while (!bytes.empty()) {
    const auto [part, length] = first_part(bytes);
    text += part == Utf8Part::kCharacter ? bytes.substr(0, length) : kReplacementCharacter;
    bytes.remove_prefix(length);
  }
  return text;
}

char32_t first_code_point(std::string_view text) {
  const unsigned lead = byte_at(text, 0);
  const auto tail = [&](std::size_t i) { return byte_at(text, i) & 0x3Fu; };
  if (lead < 0x80) return lead;
  if (lead < 0xE0) return (lead & 0x1Fu) << 6 | tail(1);
  if (lead < 0xF0) return (lead & 0x0Fu) << 12 | tail(1) << 6 | tail(2);
  return (lead & 0x07u) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3);
}

void append_code_point(std::string& text, char32_t code_point) {
  const auto tail = [&](int shift) { return static_cast<char>(0x80u | ((code_point >> shift) & 0x3Fu)); };
  if (code_point < 0x80) {
    text += static_cast<char>(code_point);
  } else if (code_point < 0x800) {
    text += {static_cast<char>(0xC0u | code_point >> 6), tail(0)};
  } else if (code_point < 0x10000) {
    text += {static_cast<char>(0xE0u | code_point >> 12), tail(6), tail(0)};
  } else {
    text += {static_cast<char>(0xF0u | code_point >> 18), tail(12), tail(6), tail(0)};
  }
}

bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

}  // namespace nibble
