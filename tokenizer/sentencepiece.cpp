#include "tokenizer/sentencepiece.h"

#include <sentencepiece_processor.h>

#include <charconv>

#include "nibble/error.h"
#include "tokenizer/charsmap.h"
#include "tokenizer/piece_table.h"
#include "tokenizer/utf8.h"

namespace nibble {
namespace {

using sentencepiece::SentencePieceProcessor;

constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";  // U+2581, a space in the vocabulary

// ModelProto.normalizer_spec.add_dummy_prefix = false. Protocol buffers merge a field that comes again, so that these
// bytes after a model are the model without the space it puts before a text.
constexpr std::string_view kNoDummyPrefix("\x1A\x02\x18\x00", 4);

std::unique_ptr<SentencePieceProcessor> load(const std::string& model, const std::string& file) {
  check_charsmap(model, file);
  auto processor = std::make_unique<SentencePieceProcessor>();
  const auto status = processor->LoadFromSerializedProto(model);
  if (!status.ok()) {
    throw Error(ErrorKind::kFormat, file + " is not a SentencePiece model: " + status.message() + ".");
  }
  if (processor->GetPieceSize() > kMaxVocabulary) {
    throw Error(ErrorKind::kFormat, file + " has " + std::to_string(processor->GetPieceSize()) +
                                        " pieces; the most nibble reads is " + std::to_string(kMaxVocabulary) + ".");
  }
  return processor;
}

std::vector<int> ids_of(const SentencePieceProcessor& processor, std::string_view text) {
  std::vector<int> ids;
  const auto status = processor.Encode(text, &ids);
  if (!status.ok()) {
    throw Error(ErrorKind::kFormat,
                std::string("The SentencePiece model cannot encode this text: ") + status.message() + ".");
  }
  return ids;
}

/// What a piece adds to a text: spaces for U+2581, the byte of "<0x0A>", nothing for control and unknown pieces.
std::string piece_bytes(const SentencePieceProcessor& processor, int id, const std::string& file) {
  if (processor.IsControl(id) || processor.IsUnknown(id)) return {};
  std::string piece = processor.IdToPiece(id);
  if (processor.IsByte(id)) {
    unsigned byte = 0;
    const auto end = piece.data() + piece.size() - 1;
    const bool well_formed = piece.size() == 6 && std::from_chars(piece.data() + 3, end, byte, 16).ptr == end;
    if (!well_formed) throw Error(ErrorKind::kFormat, file + ": the byte piece \"" + piece + "\" names no byte.");
    return std::string(1, static_cast<char>(byte));
  }
  for (std::size_t at = piece.find(kSpaceSymbol); at != std::string::npos; at = piece.find(kSpaceSymbol, at + 1)) {
    piece.replace(at, kSpaceSymbol.size(), " ");
  }
  return piece;
}

class SentencePieceTokenizer : public Tokenizer {
 public:
  SentencePieceTokenizer(std::string_view model, const std::string& file, const Settings& settings)
      : processor_(load(std::string(model), file)),
        continuation_(load(std::string(model) + std::string(kNoDummyPrefix), file)),
        model_bytes_(model.size()),
        space_is_prefix_(settings.tokenizer_class.starts_with("LlamaTokenizer")),
        drops_leading_space_(processor_->EncodeAsPieces("a") != continuation_->EncodeAsPieces("a")) {
    Vocabulary vocabulary;
    std::vector<AddedToken> added;
    std::vector<std::string> pieces;
    for (int id = 0; id < processor_->GetPieceSize(); ++id) {
      const std::string& name = processor_->IdToPiece(id);
      vocabulary.emplace(name, id);
      pieces.push_back(piece_bytes(*processor_, id, file));
      if (processor_->IsControl(id)) added.push_back({.id = id, .content = name, .special = true});
    }
    added = with_settings(std::move(added), settings, vocabulary);
    ends_ = template_of(settings, added);
    for (const AddedToken& token : added) {
      const auto id = static_cast<std::size_t>(token.id);
      if (id >= pieces.size()) pieces.resize(id + 1);
      pieces[id] = token.special ? std::string() : token.content;
    }
    pieces_ = PieceTable(pieces);
    added_ = AddedTokens(added);
  }

  std::vector<int> encode(std::string_view text, SpecialTokens special) const override {
    const std::string valid = replace_invalid(text);
    std::vector<int> ids = ends_.prefix;
    const auto append = [&](const std::vector<int>& more) { ids.insert(ids.end(), more.begin(), more.end()); };
    if (special == SpecialTokens::kText) {
      append(ids_of(processor_at_start(valid), valid));
    } else {
      bool at_start = true;  // the dummy prefix stands before the text, not before what follows a token inside it
      for (const auto& section : added_.split(valid)) {
        if (section.token) {
          ids.push_back(section.token->id);
        } else {
          append(ids_of(at_start ? processor_at_start(section.text) : *continuation_, section.text));
        }
        at_start = false;
      }
    }
    append(ends_.suffix);
    return ids;
  }

  const Template& ends() const override { return ends_; }
  std::string_view piece(int id) const override { return pieces_[id]; }
  bool drops_leading_space() const override { return drops_leading_space_; }
  int vocab_size() const override { return pieces_.size(); }

  std::size_t memory_bytes() const override {
    // What a processor keeps of a piece: its proto, its place in a hash map and in a trie. Measured as heap in use with
    // SentencePiece 0.1.97 and 8,192 pieces.
    constexpr std::size_t kBytesAPiece = 180;
    const std::size_t processor_bytes = model_bytes_ + kBytesAPiece * static_cast<std::size_t>(pieces_.size());
    return sizeof *this + 2 * processor_bytes + added_.memory_bytes() + pieces_.memory_bytes();
  }

 private:
  const SentencePieceProcessor& processor_at_start(std::string_view text) const {
    const bool begins_with_space = text.starts_with(' ') || text.starts_with(kSpaceSymbol);
    return space_is_prefix_ && begins_with_space ? *continuation_ : *processor_;
  }

  std::unique_ptr<SentencePieceProcessor> processor_;
  std::unique_ptr<SentencePieceProcessor> continuation_;  ///< the same without the dummy prefix
  std::size_t model_bytes_;
  bool space_is_prefix_;  ///< transformers' LlamaTokenizer puts no dummy prefix before a space; the library does
  bool drops_leading_space_;
  AddedTokens added_{{}};
  Template ends_;
  PieceTable pieces_;
};

}  // namespace

std::unique_ptr<Tokenizer> parse_sentencepiece(std::string_view model, const std::string& file, Settings settings) {
  settings.set_default("bos_token", "</s>");
  if (!settings.add_bos) settings.add_bos = true;
  return std::make_unique<SentencePieceTokenizer>(model, file, settings);
}

}  // namespace nibble
