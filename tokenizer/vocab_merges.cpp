// vocab.json + merges.txt, the files of GPT-2 and of every published OPT checkpoint.
#include <unordered_set>

#include "nibble/error.h"
#include "tokenizer/bpe_tokenizer.h"

namespace nibble {
namespace {

std::vector<std::pair<std::string, std::string>> parse_merges(std::string_view text, const std::string& file) {
  std::vector<std::pair<std::string, std::string>> merges;
  for (std::size_t line_number = 1; !text.empty(); ++line_number) {
    const std::size_t newline = text.find('\n');
    std::string_view line = text.substr(0, newline);
    text.remove_prefix(newline == std::string_view::npos ? text.size() : newline + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || line.starts_with("#version")) continue;
    const std::size_t space = line.find(' ');
    if (space == 0 || space + 1 >= line.size() || line.find(' ', space + 1) != std::string_view::npos) {
      throw Error(ErrorKind::kFormat, file + ": line " + std::to_string(line_number) +
                                          " must be two symbols with a space between, not \"" + std::string(line) +
                                          "\".");
    }
    merges.emplace_back(line.substr(0, space), line.substr(space + 1));
  }
  return merges;
}

}  // namespace

Vocabulary parse_vocabulary(const JsonValue& object) {
  Vocabulary vocabulary;
  std::unordered_set<int> taken;
  for (const auto& [token, value] : object.members()) {
    const int id = value.token_id();
    if (!taken.insert(id).second) {
      value.fail(ErrorKind::kFormat, "has id " + std::to_string(id) + ", which another token has too");
    }
    vocabulary.emplace(token, id);
  }
  if (vocabulary.empty()) object.fail(ErrorKind::kFormat, "must hold the vocabulary, and is empty");
  return vocabulary;
}

std::unique_ptr<Tokenizer> parse_vocab_and_merges(std::string_view vocab, const std::string& vocab_file,
                                                  std::string_view merges, const std::string& merges_file,
                                                  Settings settings) {
  BpeTokenizer::Parts parts;
  parts.bpe.vocabulary = parse_vocabulary(JsonValue::parse(vocab, vocab_file));
  parts.bpe.merges = parse_merges(merges, merges_file);

  for (const char* role : {"bos_token", "eos_token", "unk_token"}) settings.set_default(role, "</s>");
  if (parts.bpe.vocabulary.contains("<pad>")) settings.set_default("pad_token", "<pad>");
  if (!settings.add_bos) settings.add_bos = true;
  parts.added = with_settings({}, settings, parts.bpe.vocabulary);
  parts.ends = template_of(settings, parts.added);

  if (settings.add_prefix_space) parts.pretokenizer.add_prefix_space();
  parts.pretokenizer.add_split(Regex(kGpt2Pattern, Regex::Syntax::kOniguruma, vocab_file), SplitBehavior::kIsolated,
                               SplitOn::kMatches);
  parts.pretokenizer.add_byte_level();
  return std::make_unique<BpeTokenizer>(std::move(parts), merges_file);
}

}  // namespace nibble
