#include "models/checkpoint/quote.h"

namespace nibble {

std::string quote(std::string_view name) {
  constexpr std::size_t kShown = 100;
  std::string text = "'";
  for (const char letter : name.substr(0, kShown)) {
    const auto byte = static_cast<unsigned char>(letter);
    if (byte >= 0x20 && byte < 0x7f) {
      text += letter;
    } else {
      text += "\\x" + hex(byte);
    }
  }
  text += name.size() > kShown ? "...'" : "'";
  return text;
}

std::string hex(unsigned char byte) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  return {kDigits[byte >> 4], kDigits[byte & 15]};
}

}  // namespace nibble
