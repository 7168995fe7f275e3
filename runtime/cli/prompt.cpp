#include "runtime/cli/prompt.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <limits>
#include <sstream>

#include "nibble/error.h"
#include "runtime/cli/options.h"

namespace nibble {
namespace {

/// All of a stream, less the line end that editors and echo put last.
std::string read_all(std::istream& stream, const std::string& name) {
  std::string text(std::istreambuf_iterator<char>(stream), {});
  if (stream.bad() || stream.fail()) throw Error(ErrorKind::kIo, name + ": cannot be read: " + std::strerror(errno));
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

std::string read_file(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw Error(ErrorKind::kNotFound, path + ": cannot be read: " + std::strerror(errno));
  stream.exceptions(std::ios::goodbit);
  if (stream.peek(); stream.bad()) throw Error(ErrorKind::kIo, path + ": cannot be read: " + std::strerror(errno));
  stream.clear();
  return read_all(stream, path);
}

std::vector<Prompt> split_lines(const std::string& text, const std::string& name) {
  std::vector<Prompt> prompts;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    if (line.empty()) {
      throw Error(ErrorKind::kInvalidArgument,
                  name + ": expected a prompt on each line, found line " + std::to_string(prompts.size() + 1) + " empty");
    }
    prompts.emplace_back(line);
  }
  return prompts;
}

void require_text(const std::string& text, const std::string& source) {
  if (text.empty()) throw Error(ErrorKind::kInvalidArgument, source + ": expected a prompt, found an empty text");
}

}  // namespace

void add_prompt_flags(CLI::App& app, PromptFlags& flags) {
  CLI::Option* text = add_text(app, "-p,--prompt", "TEXT", "Text to continue",
                               [&flags](const std::string&, const std::string& value) { flags.given = value; });
  CLI::Option* tokens = add_text(app, "--tokens", "IDS", "Token ids in place of text, as in 2,17,9",
                                 [&flags](const std::string& flag, const std::string& value) {
                                   flags.given = parse_list(flag, value, {0, std::numeric_limits<int>::max()});
                                 });
  text->excludes(tokens);
}

void add_prompt_file_flags(CLI::App& app, PromptFlags& flags) {
  CLI::Option* file = add_text(app, "-f,--file", "FILE", "File with the text to continue",
                               [&flags](const std::string&, const std::string& value) { flags.file = value; });
  file->excludes(app.get_option("--prompt"))->excludes(app.get_option("--tokens"));
  app.add_flag("--lines", flags.lines, "Each line of the file is a prompt of its own; all are continued together")
      ->needs(file);
}

std::vector<Prompt> read_prompts(const PromptFlags& flags) {
  if (flags.given) {
    if (const auto* text = std::get_if<std::string>(&*flags.given)) require_text(*text, "-p/--prompt");
    return {*flags.given};
  }
  const std::string name = flags.file.value_or("standard input");
  std::string text = flags.file ? read_file(*flags.file) : read_all(std::cin, name);
  require_text(text, name);
  if (flags.lines) return split_lines(text, name);
  return {std::move(text)};
}

std::vector<int> prompt_tokens(const Prompt& prompt, const Engine& engine) {
  if (const auto* tokens = std::get_if<std::vector<int>>(&prompt)) return *tokens;
  return engine.tokenize(std::get<std::string>(prompt));
}

std::string prompt_text(const Prompt& prompt, const Engine& engine) {
  if (const auto* text = std::get_if<std::string>(&prompt)) return *text;
  const auto& tokens = std::get<std::vector<int>>(prompt);
  return engine.info().has_tokenizer ? engine.detokenize(tokens) : token_list(tokens);
}

std::string token_list(const std::vector<int>& tokens) {
  std::string list;
  for (const int id : tokens) list += (list.empty() ? "" : ",") + std::to_string(id);
  return list;
}

}  // namespace nibble
