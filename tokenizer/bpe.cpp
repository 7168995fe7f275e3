#include "tokenizer/bpe.h"

#include <algorithm>
#include <limits>
#include <queue>

#include "nibble/error.h"
#include "tokenizer/utf8.h"

namespace nibble {
namespace {

std::uint64_t pair_key(int left, int right) {
  return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
}

int id_of(const Vocabulary& vocabulary, const std::string& token, const std::string& role, const std::string& file) {
  const auto found = vocabulary.find(token);
  if (found == vocabulary.end()) {
    throw Error(ErrorKind::kFormat, file + ": " + role + " \"" + token + "\" is not in the vocabulary.");
  }
  return found->second;
}

constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();

template <class Map>
std::size_t map_bytes(const Map& map) {
  return map.bucket_count() * sizeof(void*) + map.size() * (sizeof(typename Map::value_type) + sizeof(void*));
}

}  // namespace

/// The symbols of one piece, linked so that joining two takes constant time, and a heap of the joins to try. A piece of
/// n symbols takes O(n log n). Two joins of equal rank go left to right, and a join that was put on the heap for a pair
/// stays good when the pair has changed but still makes the same token, as in Hugging Face's tokenizers.
class Bpe::Word {
 public:
  void clear() { symbols_.clear(); }
  void add(int id) { symbols_.push_back({id, symbols_.size() - 1, symbols_.size() + 1, true}); }

  void merge_all(const Bpe& bpe) {
    if (symbols_.empty()) return;
    symbols_.front().previous = kNone;
    symbols_.back().next = kNone;
    for (std::size_t i = 0; i + 1 < symbols_.size(); ++i) push(bpe, i);
    while (!joins_.empty()) {
      const Join join = joins_.top();
      joins_.pop();
      if (is_current(bpe, join)) apply(bpe, join);
    }
  }

  void append_to(std::vector<int>& ids) const {
    for (const Symbol& symbol : symbols_) {
      if (symbol.alive) ids.push_back(symbol.id);
    }
  }

 private:
  struct Symbol {
    int id;
    std::size_t previous, next;
    bool alive;
  };
  struct Join {
    std::uint32_t rank;
    int id;
    std::size_t left;
    bool operator<(const Join& other) const {  // the top of a priority_queue is the greatest
      return rank != other.rank ? rank > other.rank : left > other.left;
    }
  };

  void push(const Bpe& bpe, std::size_t left) {
    const Merge* merge = bpe.find(symbols_[left].id, symbols_[symbols_[left].next].id);
    if (merge) joins_.push({merge->rank, merge->id, left});
  }

  bool is_current(const Bpe& bpe, const Join& join) const {
    const Symbol& left = symbols_[join.left];
    if (!left.alive || left.next == kNone) return false;
    const Merge* merge = bpe.find(left.id, symbols_[left.next].id);
    return merge && merge->id == join.id;
  }

  void apply(const Bpe& bpe, const Join& join) {
    Symbol& left = symbols_[join.left];
    Symbol& right = symbols_[left.next];
    left.id = join.id;
    left.next = right.next;
    right.alive = false;
    if (left.next != kNone) symbols_[left.next].previous = join.left;
    if (left.previous != kNone) push(bpe, left.previous);
    if (left.next != kNone) push(bpe, join.left);
  }

  std::vector<Symbol> symbols_;
  std::priority_queue<Join> joins_;
};

Bpe::Bpe(const BpeDefinition& definition, const std::string& file) : fuse_unknown_(definition.fuse_unknown) {
  const auto& vocabulary = definition.vocabulary;
  if (definition.unknown) unknown_ = id_of(vocabulary, *definition.unknown, "the unknown token", file);
  if (definition.ignore_merges) whole_pieces_ = vocabulary;
  for (const auto& [token, id] : vocabulary) {
    if (!token.empty() && first_part(token).length == token.size()) characters_[first_code_point(token)] = id;
  }
  merges_.reserve(definition.merges.size());
  std::uint32_t rank = 0;
  for (const auto& [left, right] : definition.merges) {
    const std::string role = "symbol of merge " + std::to_string(rank + 1);
    const int left_id = id_of(vocabulary, left, role, file);
    const int right_id = id_of(vocabulary, right, role, file);
    const int id = id_of(vocabulary, left + right, "the product of merge " + std::to_string(rank + 1), file);
    merges_.insert_or_assign(pair_key(left_id, right_id), Merge{rank++, id});
  }
}

const Bpe::Merge* Bpe::find(int left, int right) const {
  const auto found = merges_.find(pair_key(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

void Bpe::spell(std::string_view piece, Word& word) const {
  bool after_unknown = false;
  while (!piece.empty()) {
    const auto known = characters_.find(first_code_point(piece));
    if (known != characters_.end()) {
      word.add(known->second);
    } else if (unknown_ && !(fuse_unknown_ && after_unknown)) {
      word.add(*unknown_);
    }
    after_unknown = known == characters_.end();
    piece.remove_prefix(first_part(piece).length);
  }
}

void Bpe::encode_piece(std::string_view piece, Word& word, std::vector<int>& ids) const {
  if (!whole_pieces_.empty()) {
    const auto whole = whole_pieces_.find(std::string(piece));
    if (whole != whole_pieces_.end()) return ids.push_back(whole->second);
  }
  word.clear();
  spell(piece, word);
  word.merge_all(*this);
  word.append_to(ids);
}

void Bpe::encode(const Pieces& pieces, std::vector<int>& ids) const {
  struct Range {
    std::size_t begin, count;
  };
  std::unordered_map<std::string_view, Range> done;  // where in `ids` a piece met before has its ids
  Word word;
  pieces.for_each([&](std::string_view piece) {
    const auto [place, is_new] = done.try_emplace(piece, Range{ids.size(), 0});
    auto& range = place->second;
    if (is_new) {
      encode_piece(piece, word, ids);
      range.count = ids.size() - range.begin;
    } else {
      for (std::size_t i = 0; i < range.count; ++i) ids.push_back(ids[range.begin + i]);
    }
  });
}

std::size_t Bpe::memory_bytes() const {
  std::size_t bytes = map_bytes(merges_) + map_bytes(characters_) + map_bytes(whole_pieces_);
  for (const auto& [piece, id] : whole_pieces_) bytes += piece.capacity();
  return bytes;
}

}  // namespace nibble
