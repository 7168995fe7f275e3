#include "tokenizer/bpe_tokenizer.h"

#include <algorithm>

#include "tokenizer/byte_level.h"
#include "tokenizer/utf8.h"

namespace nibble {
namespace {

PieceTable decoded_pieces(const BpeTokenizer::Parts& parts) {
  int size = 0;
  for (const auto& [token, id] : parts.bpe.vocabulary) size = std::max(size, id + 1);
  for (const AddedToken& token : parts.added) size = std::max(size, token.id + 1);
  std::vector<std::string> pieces(static_cast<std::size_t>(size));
  const auto piece = [&](int id) -> std::string& { return pieces[static_cast<std::size_t>(id)]; };
  for (const auto& [token, id] : parts.bpe.vocabulary) piece(id) = from_byte_level(token);
  for (const AddedToken& token : parts.added) {
    piece(token.id) = token.special ? std::string() : from_byte_level(token.content);
  }
  return PieceTable(pieces);
}

}  // namespace

BpeTokenizer::BpeTokenizer(Parts parts, const std::string& file)
    : bpe_(parts.bpe, file),
      added_(parts.added, parts.normalizer),
      normalizer_(parts.normalizer),
      pretokenizer_(std::move(parts.pretokenizer)),
      ends_(std::move(parts.ends)),
      pieces_(decoded_pieces(parts)) {}

std::vector<int> BpeTokenizer::encode(std::string_view text, SpecialTokens special) const {
  const std::string valid = replace_invalid(text);
  std::vector<int> ids = ends_.prefix;
  if (special == SpecialTokens::kText) {
    bpe_.encode(pretokenizer_(normalizer_(valid)), ids);
  } else {
    for (const auto& section : added_.split(valid)) {
      if (section.token) {
        ids.push_back(section.token->id);
      } else {
        bpe_.encode(pretokenizer_(section.text), ids);
      }
    }
  }
  ids.insert(ids.end(), ends_.suffix.begin(), ends_.suffix.end());
  return ids;
}

std::size_t BpeTokenizer::memory_bytes() const {
  return sizeof *this + bpe_.memory_bytes() + added_.memory_bytes() + pieces_.memory_bytes();
}

}  // namespace nibble
