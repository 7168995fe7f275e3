// The bytes of every token, by id, in one block of memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

/// Ids from files are below this, so that a damaged file cannot ask for gigabytes. The largest vocabularies in use have
/// a quarter of it.
inline constexpr int kMaxVocabulary = 1 << 20;

class PieceTable {
 public:
  PieceTable() = default;
  explicit PieceTable(const std::vector<std::string>& pieces) {
    ends_.reserve(pieces.size());
    for (const std::string& piece : pieces) {
      bytes_ += piece;
      ends_.push_back(bytes_.size());
    }
    bytes_.shrink_to_fit();
  }

  /// Empty for an id outside the table.
  std::string_view operator[](int id) const {
    if (id < 0 || id >= size()) return {};
    const auto i = static_cast<std::size_t>(id);
    const std::size_t begin = i == 0 ? 0 : ends_[i - 1];
    return std::string_view(bytes_).substr(begin, ends_[i] - begin);
  }

  int size() const { return static_cast<int>(ends_.size()); }
  std::size_t memory_bytes() const { return bytes_.capacity() + ends_.capacity() * sizeof(std::size_t); }

 private:
  std::string bytes_;
  std::vector<std::size_t> ends_;
};

}  // namespace nibble
