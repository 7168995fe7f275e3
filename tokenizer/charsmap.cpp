#include "tokenizer/charsmap.h"

#include <cstdint>

#include "nibble/error.h"

namespace nibble {
namespace {

// sentencepiece_model.proto
constexpr std::uint64_t kNormalizerSpec = 3;       // of ModelProto
constexpr std::uint64_t kPrecompiledCharsmap = 2;  // of NormalizerSpec

[[noreturn]] void fail(const std::string& file, const std::string& fault) {
  throw Error(ErrorKind::kFormat, file + " is not a SentencePiece model: " + fault + ".");
}

/// The fields of a serialized protocol buffer message (protobuf.dev/programming-guides/encoding).
class Fields {
 public:
  Fields(std::string_view message, const std::string& file) : rest_(message), file_(file) {}

  /// Calls `visit(bytes)` for each field of that number that holds bytes.
  template <class Visit>
  void for_each(std::uint64_t number, Visit visit) {
    while (!rest_.empty()) {
      const std::uint64_t key = varint();
      const std::string_view value = payload(key & 7);
      if (key == (number << 3 | 2)) visit(value);
    }
  }

 private:
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= std::uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
    fail(file_, "a number in it is longer than 64 bits");
  }

  std::string_view payload(std::uint64_t wire_type) {
    switch (wire_type) {
      case 0:
        varint();
        return {};
      case 1:
        return take(8);
      case 2:
        return take(varint());
      case 5:
        return take(4);
      default:
        fail(file_, "a field in it has the wire type " + std::to_string(wire_type));
    }
  }

  std::string_view take(std::uint64_t size) {
    if (size > rest_.size()) fail(file_, "it ends in the middle of a field");
    const std::string_view taken = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return taken;
  }

  std::string_view rest_;
  const std::string& file_;
};

std::uint32_t word(std::string_view bytes, std::size_t index) {
  std::uint32_t value = 0;
  for (std::size_t i = 4; i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes[4 * index + i]);
  return value;
}

/// A unit of the double-array trie (Yata et al. 2007), as darts-clone packs it.
struct Unit {
  std::uint32_t bits;
  bool is_value() const { return bits >> 31; }
  bool has_leaf() const { return bits >> 8 & 1; }
  std::uint32_t value() const { return bits & 0x7FFFFFFFu; }
  std::uint32_t offset() const { return bits >> 10 << ((bits & 1u << 9) >> 6); }
};

/// A charsmap is the size of the trie, the trie, and the replacements its values point into.
void check(std::string_view charsmap, const std::string& file) {
  const std::string fault = "its table of normalized characters leads outside of itself";
  if (charsmap.empty()) return;
  const std::size_t trie_size = charsmap.size() < 4 ? 0 : word(charsmap, 0);
  if (trie_size < 4 || trie_size > charsmap.size() - 4) fail(file, fault);
  const std::string_view trie = charsmap.substr(4, trie_size);
  const std::size_t replacements = charsmap.size() - 4 - trie_size;
  const std::size_t units = trie.size() / 4;
  for (std::size_t i = 0; i < units; ++i) {
    const Unit unit{word(trie, i)};
    if (unit.is_value()) continue;
    const std::size_t children = i ^ unit.offset();  // one unit for each byte that may follow
    if ((children | 0xFF) >= units) fail(file, fault);
    if (unit.has_leaf() && Unit{word(trie, children)}.value() >= replacements) fail(file, fault);
  }
}

}  // namespace

void check_charsmap(std::string_view model, const std::string& file) {
  Fields(model, file).for_each(kNormalizerSpec, [&](std::string_view normalizer) {
    Fields(normalizer, file).for_each(kPrecompiledCharsmap, [&](std::string_view map) { check(map, file); });
  });
}

}  // namespace nibble
