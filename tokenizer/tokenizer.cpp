#include "tokenizer/tokenizer.h"

#include "tokenizer/stream_decoder.h"

namespace nibble {

std::string decode(const Tokenizer& tokenizer, std::span<const int> ids) {
  StreamDecoder decoder(tokenizer, StreamDecoder::Start::kText);
  std::string text;
  for (const int id : ids) text += decoder.push(id);
  return text + decoder.finish();
}

}  // namespace nibble
