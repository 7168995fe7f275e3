#include "tokenizer/regex_syntax.h"

#include "nibble/error.h"

namespace nibble {
namespace {

// Unicode White_Space; PCRE2's own \s has U+180E besides.
constexpr std::string_view kWhiteSpace =
    "\\t-\\r \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";
constexpr std::string_view kNotWhiteSpace =
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}!-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}"
    "\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}";

// Letters and numbers that Unicode 15.0 to 16.0 added to the 14.0 of PCRE2 10.42. They were found by asking both
// engines for every code point; on a newer PCRE2 they say nothing new.
constexpr std::string_view kNewLetters =
    "\\x{1c89}-\\x{1c8a}\\x{a7cb}-\\x{a7cd}\\x{a7da}-\\x{a7dc}\\x{105c0}-\\x{105f3}\\x{10d4a}-\\x{10d65}"
    "\\x{10d6f}-\\x{10d85}\\x{10ec2}-\\x{10ec4}\\x{1123f}-\\x{11240}\\x{11380}-\\x{11389}\\x{1138b}\\x{1138e}"
    "\\x{11390}-\\x{113b5}\\x{113b7}\\x{113d1}\\x{113d3}\\x{11bc0}-\\x{11be0}\\x{11f02}\\x{11f04}-\\x{11f10}"
    "\\x{11f12}-\\x{11f33}\\x{1342f}\\x{13441}-\\x{13446}\\x{13460}-\\x{143fa}\\x{16100}-\\x{1611d}"
    "\\x{16d40}-\\x{16d6c}\\x{18cff}\\x{1b132}\\x{1b155}\\x{1df25}-\\x{1df2a}\\x{1e030}-\\x{1e06d}"
    "\\x{1e4d0}-\\x{1e4eb}\\x{1e5d0}-\\x{1e5ed}\\x{1e5f0}\\x{2b739}\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}";
constexpr std::string_view kNewNumbers =
    "\\x{10d40}-\\x{10d49}\\x{116d0}-\\x{116e3}\\x{11bf0}-\\x{11bf9}\\x{11f50}-\\x{11f59}\\x{16130}-\\x{16139}"
    "\\x{16d70}-\\x{16d79}\\x{1ccf0}-\\x{1ccf9}\\x{1d2c0}-\\x{1d2d3}\\x{1e4f0}-\\x{1e4f9}\\x{1e5f1}-\\x{1e5fa}";

/// The pattern on its way through: what is read, what is written, and whether the place is inside a class.
struct Translation {
  std::string_view pattern;
  const std::string& file;
  std::size_t at = 0;
  bool in_class = false;
  std::string out;

  bool skip(std::string_view expected) {
    if (!pattern.substr(at).starts_with(expected)) return false;
    at += expected.size();
    return true;
  }

  void emit_class(std::string_view members) {
    if (in_class) {
      out += members;
    } else {
      out.append("[").append(members).append("]");
    }
  }

  void emit_complement(std::string_view name, std::string_view members) {
    if (in_class) refuse(name);
    out.append("[^").append(members).append("]");
  }

  [[noreturn]] void refuse(std::string_view construct) const {
    throw Error(ErrorKind::kUnsupported, file + ": the pre-tokenizer pattern \"" + std::string(pattern) + "\" uses \"" +
                                             std::string(construct) + "\", which nibble does not support there.");
  }
};

void translate_escape(Translation& t) {
  const std::string letters = "\\p{L}" + std::string(kNewLetters);
  const std::string numbers = "\\p{N}" + std::string(kNewNumbers);
  if (t.skip("\\s")) return t.emit_class(kWhiteSpace);
  if (t.skip("\\S")) return t.emit_class(kNotWhiteSpace);
  if (t.skip("\\p{L}")) return t.emit_class(letters);
  if (t.skip("\\p{N}")) return t.emit_class(numbers);
  if (t.skip("\\P{L}")) return t.emit_complement("\\P{L}", letters);
  if (t.skip("\\P{N}")) return t.emit_complement("\\P{N}", numbers);
  for (const std::string_view different : {"\\h", "\\H"}) {
    if (t.skip(different)) t.refuse(different);
  }
  t.out += t.pattern.substr(t.at, 2);
  t.at += 2;
}

void translate_character(Translation& t) {
  const char c = t.pattern[t.at];
  if (t.in_class) {
    if (t.skip("&&")) t.refuse("&&");
    if (c == '[' && !t.pattern.substr(t.at).starts_with("[:")) t.refuse("[ inside a class");
    if (t.skip("[:")) {
      const std::size_t end = t.pattern.find(":]", t.at);
      if (end == std::string_view::npos) t.refuse("[:");
      t.out.append("[:").append(t.pattern.substr(t.at, end + 2 - t.at));
      t.at = end + 2;
      return;
    }
    if (c == ']') t.in_class = false;
  } else {
    for (const std::string_view different : {"(?m", "(?s", "(?x", "(*"}) {
      if (t.skip(different)) t.refuse(different);
    }
    if (c == '[') t.in_class = true;
  }
  t.out += c;
  ++t.at;
}

}  // namespace

std::string to_pcre2(std::string_view pattern, const std::string& file) {
  Translation t{.pattern = pattern, .file = file, .out = {}};
  while (t.at < pattern.size()) {
    if (pattern[t.at] == '\\') {
      translate_escape(t);
    } else {
      translate_character(t);
    }
  }
  return t.out;
}

}  // namespace nibble
