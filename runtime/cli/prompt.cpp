#include "runtime/cli/prompt.h"

#include <spdlog/fmt/fmt.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string_view>

#include "nibble/error.h"
#include "runtime/cli/flags.h"
#include "runtime/cli/render.h"

namespace nibble::cli {
namespace {

template <class... F>
struct Overloaded : F... {
  using F::operator()...;
};
template <class... F>
Overloaded(F...) -> Overloaded<F...>;

[[noreturn]] void fail_to_read(const std::string& name) {
  throw Error(errno == ENOENT ? ErrorKind::kNotFound : ErrorKind::kIo,
              fmt::format("{}: cannot be read: {}", name, std::strerror(errno)));
}

std::string read_all(std::FILE* file, const std::string& name) {
  std::string text;
  std::array<char, 1 << 16> piece;
  while (const std::size_t count = std::fread(piece.data(), 1, piece.size(), file)) text.append(piece.data(), count);
  if (std::ferror(file) != 0) fail_to_read(name);
  if (text.ends_with('\n')) text.pop_back();
  if (text.ends_with('\r')) text.pop_back();
  return text;
}

std::string read_file(const std::string& path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (!file) fail_to_read(path);
  return read_all(file.get(), path);
}

[[noreturn]] void fail_empty(const std::string& name) {
  throw Error(ErrorKind::kInvalidArgument, name + ": expected a prompt of at least one character, found none");
}

/// For messages.
std::string name_of(const PromptSource& source) {
  return std::visit(Overloaded{[](const StandardInput&) { return std::string("standard input"); },
                               [](const File& file) { return file.path; },
                               [](const std::string&) { return std::string("-p/--prompt"); },
                               [](const std::vector<int>&) { return std::string("--tokens"); }},
                    source);
}

}  // namespace

void add_prompt_flags(CLI::App& app, PromptSource& source) {
  const auto choose = [&source](const FlagValue& value, PromptSource chosen) {
    if (!std::holds_alternative<StandardInput>(source)) {
      throw UsageError(value.flag() + ": expected one of -p, -f and --tokens, found more than one");
    }
    source = std::move(chosen);
  };
  add_value(
      app, "-p,--prompt", "TEXT", [=](const FlagValue& value) { choose(value, value.text()); }, "Text to go on from");
  add_value(
      app, "-f,--file", "FILE", [=](const FlagValue& value) { choose(value, File{value.text()}); },
      "File with the text to go on from");
  add_value(
      app, "--tokens", "IDS", [=](const FlagValue& value) { choose(value, value.list("token ids such as 2,17,9")); },
      "Token ids in place of text, taken as they are: 2,17,9");
}

Prompt read_prompt(const PromptSource& source) {
  Prompt prompt =
      std::visit(Overloaded{[](const StandardInput&) -> Prompt { return read_all(stdin, "standard input"); },
                            [](const File& file) -> Prompt { return read_file(file.path); },
                            [](const auto& given) -> Prompt { return given; }},
                 source);
  const auto* text = std::get_if<std::string>(&prompt);
  if (text != nullptr && text->empty()) fail_empty(name_of(source));
  return prompt;
}

std::vector<Prompt> read_prompt_lines(const PromptSource& source) {
  const Prompt whole = read_prompt(source);
  const auto* text = std::get_if<std::string>(&whole);
  if (text == nullptr) throw UsageError("--lines: expected text (-p, -f or standard input), found --tokens");
  std::vector<Prompt> lines;
  std::string_view rest = *text;
  while (true) {
    const std::size_t end = rest.find('\n');
    std::string_view line = rest.substr(0, end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) fail_empty(fmt::format("{}, line {}", name_of(source), lines.size() + 1));
    lines.emplace_back(std::string(line));
    if (end == std::string_view::npos) return lines;
    rest.remove_prefix(end + 1);
  }
}

void require_readable(const ModelInfo& model, const Prompt& prompt, const SessionOptions& session) {
  if (const auto* ids = std::get_if<std::vector<int>>(&prompt)) return check_prompt(*ids, model, session);
  if (model.has_tokenizer) return;
  throw Error(ErrorKind::kUnsupported, model.name + ": has no tokenizer; give token ids in place of text");
}

std::vector<int> token_ids(const Engine& engine, const Prompt& prompt) {
  const auto* text = std::get_if<std::string>(&prompt);
  return text != nullptr ? engine.tokenize(*text) : std::get<std::vector<int>>(prompt);
}

std::string readable(const Engine& engine, const Prompt& prompt) {
  if (const auto* text = std::get_if<std::string>(&prompt)) return *text;
  const auto& ids = std::get<std::vector<int>>(prompt);
  return engine.info().has_tokenizer ? engine.detokenize(ids) : list_text(ids);
}

}  // namespace nibble::cli
