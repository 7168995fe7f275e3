#include "tokenizer/pretokenizer.h"

#include <algorithm>

#include "tokenizer/byte_level.h"

namespace nibble {
namespace {

/// A stretch of a piece: a delimiter or what lies between two.
struct Stretch {
  std::size_t begin, end;
  bool delimiter;
};

/// `size` bytes of text as alternating gaps and matches.
std::vector<Stretch> stretches(const std::vector<Regex::Match>& matches, std::size_t size, SplitOn on) {
  const bool match_delimits = on == SplitOn::kMatches;
  std::vector<Stretch> all;
  std::size_t at = 0;
  for (const auto& match : matches) {
    if (match.begin > at) all.push_back({at, match.begin, !match_delimits});
    all.push_back({match.begin, match.end, match_delimits});
    at = match.end;
  }
  if (at < size) all.push_back({at, size, !match_delimits});
  return all;
}

/// Joins each stretch for which `joins(it, before)` holds to the one before it.
template <class Joins>
std::vector<Stretch> join(const std::vector<Stretch>& all, Joins joins) {
  std::vector<Stretch> joined;
  bool previous_delimiter = false;
  for (const Stretch& stretch : all) {
    if (!joined.empty() && joins(stretch.delimiter, previous_delimiter)) {
      joined.back().begin = std::min(joined.back().begin, stretch.begin);
      joined.back().end = std::max(joined.back().end, stretch.end);
    } else {
      joined.push_back(stretch);
    }
    previous_delimiter = stretch.delimiter;
  }
  return joined;
}

std::vector<Stretch> apply(SplitBehavior behavior, std::vector<Stretch> all) {
  const auto lone_delimiter = [](bool delimiter, bool previous) { return delimiter && !previous; };
  switch (behavior) {
    case SplitBehavior::kRemoved:
      std::erase_if(all, [](const Stretch& stretch) { return stretch.delimiter; });
      return all;
    case SplitBehavior::kIsolated:
      return all;
    case SplitBehavior::kMergedWithPrevious:
      return join(all, lone_delimiter);
    case SplitBehavior::kMergedWithNext:
      std::reverse(all.begin(), all.end());
      all = join(all, lone_delimiter);
      std::reverse(all.begin(), all.end());
      return all;
    case SplitBehavior::kContiguous:
      return join(all, std::equal_to<bool>());
  }
  return all;
}

}  // namespace

void Pieces::add(std::string_view piece) {
  if (piece.empty()) return;
  text += piece;
  ends.push_back(text.size());
}

void Pretokenizer::add_split(const Regex& regex, SplitBehavior behavior, SplitOn on) {
  steps_.push_back([=](const Pieces& pieces) {
    Regex::Matcher matcher(regex);
    Pieces out;
    out.text.reserve(pieces.text.size());
    pieces.for_each([&](std::string_view piece) {
      for (const Stretch& s : apply(behavior, stretches(matcher.find_all(piece), piece.size(), on))) {
        out.add(piece.substr(s.begin, s.end - s.begin));
      }
    });
    return out;
  });
}

void Pretokenizer::add_prefix_space() {
  steps_.push_back([](const Pieces& pieces) {
    Pieces out;
    pieces.for_each([&](std::string_view piece) {
      if (!piece.starts_with(' ')) out.text += ' ';
      out.add(piece);
    });
    return out;
  });
}

void Pretokenizer::add_byte_level() {
  steps_.push_back([](const Pieces& pieces) {
    Pieces out;
    out.ends.reserve(pieces.ends.size());
    pieces.for_each([&](std::string_view piece) { out.add(to_byte_level(piece)); });
    return out;
  });
}

Pieces Pretokenizer::operator()(std::string_view text) const {
  Pieces pieces;
  pieces.add(text);
  for (const auto& step : steps_) pieces = step(pieces);
  return pieces;
}

}  // namespace nibble
