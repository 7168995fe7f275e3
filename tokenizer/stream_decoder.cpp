#include "tokenizer/stream_decoder.h"

#include "tokenizer/utf8.h"

namespace nibble {

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, Start start)
    : tokenizer_(tokenizer), drop_space_(start == Start::kText && tokenizer.drops_leading_space()) {}

std::string StreamDecoder::push(int id) {
  std::string_view piece = tokenizer_.piece(id);
  if (piece.empty()) return {};
  if (drop_space_ && piece.starts_with(' ')) piece.remove_prefix(1);
  drop_space_ = false;
  held_ += piece;

  std::string text;
  std::string_view rest = held_;
  while (!rest.empty()) {
    const auto [part, length] = first_part(rest);
    if (part == Utf8Part::kIncomplete) break;
    text += part == Utf8Part::kCharacter ? rest.substr(0, length) : kReplacementCharacter;
    rest.remove_prefix(length);
  }
  held_.erase(0, held_.size() - rest.size());
  return text;
}

std::string StreamDecoder::finish() {
  const std::string text = replace_invalid(held_);
  held_.clear();
  drop_space_ = tokenizer_.drops_leading_space();
  return text;
}

}  // namespace nibble
