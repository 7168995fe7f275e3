// tokenizer.json, the file of Hugging Face's tokenizers: the parts of it that byte-level BPE is made of. Every other
// part is refused by name, because leaving it out would give other ids without a word.
#include <algorithm>
#include <array>

#include "nibble/error.h"
#include "tokenizer/bpe_tokenizer.h"

namespace nibble {
namespace {

struct NamedNormalizer {
  std::string_view name;
  Normalizer normalizer;
};
constexpr std::array<NamedNormalizer, 1> kNormalizers = {{{"NFKC", nfkc}}};

struct NamedBehavior {
  std::string_view name;
  SplitBehavior behavior;
};
constexpr std::array<NamedBehavior, 5> kBehaviors = {{
    {"Removed", SplitBehavior::kRemoved},
    {"Isolated", SplitBehavior::kIsolated},
    {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
    {"MergedWithNext", SplitBehavior::kMergedWithNext},
    {"Contiguous", SplitBehavior::kContiguous},
}};

// Digits asks Rust's char::is_numeric, whose tables (Unicode 17) are a version ahead of those of the patterns.
constexpr std::string_view kNumberPattern = R"([\p{N}\x{11de0}-\x{11de9}\x{16ff4}-\x{16ff6}])";

[[noreturn]] void refuse_type(const JsonValue& part) {
  part.fail(ErrorKind::kUnsupported, "has the type \"" + part.type() + "\", which nibble does not support");
}

Normalizer parse_normalizer(const JsonValue& part) {
  const std::string type = part.type();
  for (const auto& [name, normalizer] : kNormalizers) {
    if (type != name) continue;
    part.allow_only({"type"});
    return normalizer;
  }
  refuse_type(part);
}

/// Adds the steps of a tree of pre-tokenizers and notes whether one of them is ByteLevel.
class PretokenizerParser {
 public:
  explicit PretokenizerParser(Pretokenizer& out) : out_(out) {}

  void add(const JsonValue& part) {
    static constexpr std::array<Kind, 4> kKinds = {{
        {"Sequence", &PretokenizerParser::add_sequence},
        {"Split", &PretokenizerParser::add_split},
        {"Digits", &PretokenizerParser::add_digits},
        {"ByteLevel", &PretokenizerParser::add_byte_level},
    }};
    const std::string type = part.type();
    for (const auto& [name, add_kind] : kKinds) {
      if (type == name) return (this->*add_kind)(part);
    }
    refuse_type(part);
  }

  bool has_byte_level() const { return has_byte_level_; }

 private:
  struct Kind {
    std::string_view name;
    void (PretokenizerParser::*add_kind)(const JsonValue&);
  };

  void add_sequence(const JsonValue& part) {
    part.allow_only({"type", "pretokenizers"});
    // tokenizers writes sequences flat; one level keeps a damaged file from recursing without end.
    for (const JsonValue& step : part.at("pretokenizers").items()) {
      if (step.type() == "Sequence") refuse_type(step);
      add(step);
    }
  }

  void add_split(const JsonValue& part) {
    part.allow_only({"type", "pattern", "behavior", "invert"});
    const JsonValue pattern = part.at("pattern");
    pattern.allow_only({"String", "Regex"});
    const std::string name = part.at("behavior").string();
    const auto named =
        std::find_if(kBehaviors.begin(), kBehaviors.end(), [&](const auto& b) { return b.name == name; });
    if (named == kBehaviors.end()) {
      part.fail(ErrorKind::kUnsupported, "has the behavior \"" + name + "\", which nibble does not know");
    }
    const auto literal = pattern.find("String");
    const std::string text = literal ? literal->string() : pattern.at("Regex").string();
    if (literal && text.empty()) return;
    const Regex regex(text, literal ? Regex::Syntax::kLiteral : Regex::Syntax::kOniguruma, part.file());
    out_.add_split(regex, named->behavior, part.flag("invert", false) ? SplitOn::kGaps : SplitOn::kMatches);
  }

  void add_digits(const JsonValue& part) {
    part.allow_only({"type", "individual_digits"});
    out_.add_split(Regex(kNumberPattern, Regex::Syntax::kOniguruma, part.file()),
                   part.flag("individual_digits", false) ? SplitBehavior::kIsolated : SplitBehavior::kContiguous,
                   SplitOn::kMatches);
  }

  void add_byte_level(const JsonValue& part) {
    part.allow_only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    if (part.flag("add_prefix_space", true)) out_.add_prefix_space();
    if (part.flag("use_regex", true)) {
      out_.add_split(Regex(kGpt2Pattern, Regex::Syntax::kOniguruma, part.file()), SplitBehavior::kIsolated,
                     SplitOn::kMatches);
    }
    out_.add_byte_level();
    has_byte_level_ = true;
  }

  Pretokenizer& out_;
  bool has_byte_level_ = false;
};

std::pair<std::string, std::string> parse_merge(const JsonValue& merge) {
  if (merge.is_array()) {
    const auto symbols = merge.items();
    if (symbols.size() == 2) return {symbols[0].string(), symbols[1].string()};
  } else {
    const std::string& text = merge.string();
    const std::size_t space = text.find(' ');
    const bool one_space = space != std::string::npos && text.find(' ', space + 1) == std::string::npos;
    if (one_space) return {text.substr(0, space), text.substr(space + 1)};
  }
  merge.fail(ErrorKind::kFormat, "must be two symbols, as \"a b\" or as [\"a\", \"b\"]");
}

BpeDefinition parse_model(const JsonValue& model) {
  if (model.find("type") && model.type() != "BPE") refuse_type(model);
  model.allow_only({"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
                    "byte_fallback", "ignore_merges", "vocab", "merges"});
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const auto value = model.find(affix);
    if (value && !value->string().empty()) {
      value->fail(ErrorKind::kUnsupported, "is \"" + value->string() + "\", and nibble supports none");
    }
  }
  if (const auto dropout = model.find("dropout")) {
    dropout->fail(ErrorKind::kUnsupported, "makes the ids random, which nibble does not support");
  }
  if (model.flag("byte_fallback", false)) {
    model.fail(ErrorKind::kUnsupported, "has \"byte_fallback\", which byte-level BPE has no use for");
  }
  BpeDefinition bpe;
  bpe.vocabulary = parse_vocabulary(model.at("vocab"));
  for (const JsonValue& merge : model.at("merges").items()) bpe.merges.push_back(parse_merge(merge));
  if (const auto unknown = model.find("unk_token"); unknown && !unknown->string().empty()) {
    bpe.unknown = unknown->string();
  }
  bpe.fuse_unknown = model.flag("fuse_unk", false);
  bpe.ignore_merges = model.flag("ignore_merges", false);
  return bpe;
}

std::vector<AddedToken> parse_added_tokens(const JsonValue& list) {
  std::vector<AddedToken> tokens;
  for (const JsonValue& item : list.items()) {
    item.allow_only({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
    tokens.push_back(parse_added_token(item));
    tokens.back().id = item.at("id").token_id();
  }
  return tokens;
}

void add_template_step(const JsonValue& step, const JsonValue& special_tokens, Template& ends, bool& after_text) {
  step.allow_only({"SpecialToken", "Sequence"});
  const auto special = step.find("SpecialToken");
  if (!special) {
    if (step.at("Sequence").at("id").string() != "A" || after_text) {
      step.fail(ErrorKind::kUnsupported, "must be the only sequence, \"A\"");
    }
    after_text = true;
    return;
  }
  for (const JsonValue& id : special_tokens.at(special->at("id").string()).at("ids").items()) {
    (after_text ? ends.suffix : ends.prefix).push_back(id.token_id());
  }
}

Template parse_template(const JsonValue& processor) {
  processor.allow_only({"type", "single", "pair", "special_tokens"});
  Template ends;
  bool after_text = false;
  const JsonValue special_tokens = processor.at("special_tokens");
  for (const JsonValue& step : processor.at("single").items()) {
    add_template_step(step, special_tokens, ends, after_text);
  }
  return ends;
}

Template parse_post_processor(const JsonValue& processor) {
  const std::string type = processor.type();
  if (type == "ByteLevel") return {};  // moves offsets only
  if (type == "TemplateProcessing") return parse_template(processor);
  if (type != "Sequence") refuse_type(processor);
  processor.allow_only({"type", "processors"});
  Template ends;
  for (const JsonValue& step : processor.at("processors").items()) {
    if (step.type() == "Sequence") refuse_type(step);
    const Template inner = parse_post_processor(step);
    ends.prefix.insert(ends.prefix.begin(), inner.prefix.begin(), inner.prefix.end());
    ends.suffix.insert(ends.suffix.end(), inner.suffix.begin(), inner.suffix.end());
  }
  return ends;
}

}  // namespace

std::unique_ptr<Tokenizer> parse_tokenizer_json(std::string_view text, const std::string& file,
                                                const Settings& settings) {
  const JsonValue root = JsonValue::parse(text, file);
  root.allow_only({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor",
                   "decoder", "model"});
  BpeTokenizer::Parts parts;
  parts.bpe = parse_model(root.at("model"));
  if (const auto normalizer = root.find("normalizer")) parts.normalizer = parse_normalizer(*normalizer);

  PretokenizerParser steps(parts.pretokenizer);
  steps.add(root.at("pre_tokenizer"));
  if (!steps.has_byte_level()) {
    root.fail(ErrorKind::kUnsupported, "has no ByteLevel pre-tokenizer, and nibble supports byte-level BPE alone");
  }
  if (root.at("decoder").type() != "ByteLevel") refuse_type(root.at("decoder"));

  std::vector<AddedToken> added;
  if (const auto list = root.find("added_tokens")) added = parse_added_tokens(*list);
  parts.added = with_settings(std::move(added), settings, parts.bpe.vocabulary);
  if (settings.add_bos || settings.add_eos) {
    parts.ends = template_of(settings, parts.added);
  } else if (const auto processor = root.find("post_processor")) {
    parts.ends = parse_post_processor(*processor);
  }
  return std::make_unique<BpeTokenizer>(std::move(parts), file);
}

}  // namespace nibble
