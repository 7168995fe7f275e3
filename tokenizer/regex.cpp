#define PCRE2_CODE_UNIT_WIDTH 8
#include "tokenizer/regex.h"

#include <pcre2.h>

#include <algorithm>

#include "nibble/error.h"
#include "tokenizer/regex_syntax.h"
#include "tokenizer/utf8.h"

namespace nibble {
namespace {

PCRE2_SPTR units(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

std::string explain(int error) {
  unsigned char text[256] = {};
  pcre2_get_error_message(error, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

template <auto Free>
struct Freed {
  template <class T>
  void operator()(T* object) const {
    Free(object);
  }
};

template <class T, auto Free>
using Owned = std::unique_ptr<T, Freed<Free>>;

constexpr std::size_t kJitStackStart = std::size_t{32} << 10;
constexpr std::size_t kJitStackLimit = std::size_t{8} << 20;

}  // namespace

struct Regex::Compiled {
  std::string pattern, file;
  Owned<pcre2_code, pcre2_code_free> code;
};

struct Regex::Matcher::Scratch {
  Owned<pcre2_match_data, pcre2_match_data_free> data;
  Owned<pcre2_jit_stack, pcre2_jit_stack_free> stack;
  Owned<pcre2_match_context, pcre2_match_context_free> context;
};

Regex::Regex(std::string_view pattern, Syntax syntax, const std::string& file) {
  const bool literal = syntax == Syntax::kLiteral;
  const std::string translated = literal ? std::string(pattern) : to_pcre2(pattern, file);
  // Oniguruma's ^ and $ match at every line.
  const std::uint32_t options = PCRE2_UTF | (literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE);
  int error = 0;
  std::size_t offset = 0;
  auto* code = pcre2_compile(units(translated), translated.size(), options, &error, &offset, nullptr);
  compiled_ = std::make_shared<Compiled>(Compiled{std::string(pattern), file, decltype(Compiled::code)(code)});
  if (!code) {
    throw Error(ErrorKind::kFormat, file + ": the pre-tokenizer pattern \"" + std::string(pattern) +
                                        "\" is not a valid regular expression (" + explain(error) + ").");
  }
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // where there is no JIT, pcre2_match interprets
}

Regex::Matcher::Matcher(const Regex& regex) : compiled_(regex.compiled_), scratch_(std::make_unique<Scratch>()) {
  scratch_->data.reset(pcre2_match_data_create_from_pattern(compiled_->code.get(), nullptr));
  scratch_->context.reset(pcre2_match_context_create(nullptr));
  scratch_->stack.reset(pcre2_jit_stack_create(kJitStackStart, kJitStackLimit, nullptr));
  if (!scratch_->data || !scratch_->context) {
    throw Error(ErrorKind::kOutOfMemory, "There is no memory left for matching a pre-tokenizer pattern.");
  }
  pcre2_jit_stack_assign(scratch_->context.get(), nullptr, scratch_->stack.get());
}

Regex::Matcher::~Matcher() = default;

std::vector<Regex::Match> Regex::Matcher::find_all(std::string_view text) {
  std::vector<Match> matches;
  std::size_t at = 0;
  while (at <= text.size()) {
    const int found = pcre2_match(compiled_->code.get(), units(text), text.size(), at, PCRE2_NO_UTF_CHECK,
                                  scratch_->data.get(), scratch_->context.get());
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0) {
      throw Error(ErrorKind::kUnsupported, compiled_->file + ": the pre-tokenizer pattern \"" + compiled_->pattern +
                                               "\" gives up on this text (" + explain(found) + ").");
    }
    const std::size_t* bounds = pcre2_get_ovector_pointer(scratch_->data.get());
    const Match match{bounds[0], bounds[1]};
    const bool empty = match.begin >= match.end;
    const bool touches_last = !matches.empty() && matches.back().end == match.end;
    if (!(empty && touches_last)) matches.push_back({match.begin, std::max(match.begin, match.end)});
    at = match.end;
    if (empty) at = match.begin + (match.begin < text.size() ? first_part(text.substr(match.begin)).length : 1);
  }
  return matches;
}

}  // namespace nibble
