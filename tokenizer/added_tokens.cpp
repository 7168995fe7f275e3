#include "tokenizer/added_tokens.h"

#include <algorithm>

#include "tokenizer/utf8.h"

namespace nibble {
namespace {

/// Where the character that ends at `end` begins.
std::size_t character_before(std::string_view text, std::size_t end) {
  do {
    --end;
  } while ((static_cast<unsigned char>(text[end]) & 0xC0) == 0x80);
  return end;
}

std::size_t white_space_begin(std::string_view text, std::size_t end) {
  while (end > 0) {
    const std::size_t begin = character_before(text, end);
    if (!is_white_space(first_code_point(text.substr(begin)))) break;
    end = begin;
  }
  return end;
}

std::size_t white_space_end(std::string_view text, std::size_t begin) {
  while (begin < text.size() && is_white_space(first_code_point(text.substr(begin)))) {
    begin += first_part(text.substr(begin)).length;
  }
  return begin;
}

bool stands_alone(std::string_view text, std::size_t begin, std::size_t end, const Regex& word) {
  Regex::Matcher matcher(word);
  const auto is_word = [&](std::size_t at) {
    return !matcher.find_all(text.substr(at, first_part(text.substr(at)).length)).empty();
  };
  if (begin > 0 && is_word(character_before(text, begin))) return false;
  return end == text.size() || !is_word(end);
}

}  // namespace

void AddedTokens::Group::add(std::string spelling, const AddedToken& token) {
  if (spelling.empty()) return;
  auto& lengths = lengths_[static_cast<unsigned char>(spelling[0])];
  const auto place = std::lower_bound(lengths.begin(), lengths.end(), spelling.size(), std::greater<>());
  if (place == lengths.end() || *place != spelling.size()) lengths.insert(place, spelling.size());
  tokens_.insert_or_assign(std::move(spelling), token);
}

const AddedToken* AddedTokens::Group::longest_at(std::string_view text, std::size_t& length) const {
  for (const std::size_t candidate : lengths_[static_cast<unsigned char>(text[0])]) {
    if (candidate > text.size()) continue;
    const auto found = tokens_.find(std::string(text.substr(0, candidate)));
    if (found == tokens_.end()) continue;
    length = candidate;
    return &found->second;
  }
  return nullptr;
}

template <class OnText, class OnToken>
void AddedTokens::Group::scan(std::string_view text, const Regex& word, OnText on_text, OnToken on_token) const {
  std::size_t done = 0;
  std::size_t at = 0;
  while (at < text.size()) {
    std::size_t length = 1;
    const AddedToken* token = longest_at(text.substr(at), length);
    const std::size_t match = at;
    at += length;
    if (!token || (token->single_word && !stands_alone(text, match, at, word))) continue;
    const std::size_t begin = std::max(done, token->lstrip ? white_space_begin(text, match) : match);
    const std::size_t end = token->rstrip ? white_space_end(text, at) : at;
    if (begin > done) on_text(text.substr(done, begin - done));
    on_token(*token);
    done = std::max(done, end);
  }
  if (done < text.size()) on_text(text.substr(done));
}

std::size_t AddedTokens::Group::memory_bytes() const {
  std::size_t bytes = tokens_.bucket_count() * sizeof(void*);
  for (const auto& [spelling, token] : tokens_) {
    bytes += sizeof spelling + sizeof token + 2 * sizeof(void*) + spelling.capacity() + token.content.capacity();
  }
  return bytes;
}

// \w of Rust's regex crate: Unicode Technical Standard 18, Annex C.
AddedTokens::AddedTokens(const std::vector<AddedToken>& tokens, Normalizer normalizer)
    : normalizer_(normalizer),
      word_(R"([\p{L}\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}])", Regex::Syntax::kOniguruma, "added tokens") {
  for (const AddedToken& token : tokens) {
    if (token.normalized) {
      normalized_.add(normalizer(token.content), token);
    } else {
      as_written_.add(token.content, token);
    }
  }
}

std::vector<AddedTokens::Section> AddedTokens::split(std::string_view text) const {
  std::vector<Section> sections;
  const auto on_token = [&](const AddedToken& token) { sections.push_back({{}, &token}); };
  const auto on_normalized_text = [&](std::string_view between) {
    sections.push_back({std::string(between), nullptr});
  };
  const auto on_written_text = [&](std::string_view between) {
    normalized_.scan(normalizer_(between), word_, on_normalized_text, on_token);
  };
  as_written_.scan(text, word_, on_written_text, on_token);
  return sections;
}

std::size_t AddedTokens::memory_bytes() const {
  return sizeof *this + as_written_.memory_bytes() + normalized_.memory_bytes();
}

}  // namespace nibble
