// What a model is to go on from: text or ids, from the command line, a file or standard input.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <variant>
#include <vector>

#include "nibble/engine.h"

namespace nibble::cli {

/// Text, or token ids in its place.
using Prompt = std::variant<std::string, std::vector<int>>;

struct StandardInput {};
struct File {
  std::string path;
};
/// Where prompts come from: -p, -f, --tokens, or none of them.
using PromptSource = std::variant<StandardInput, std::string, File, std::vector<int>>;

/// -p, -f and --tokens, of which one may be given.
void add_prompt_flags(CLI::App& app, PromptSource& source);

/// One line end at the end of a file is not part of the prompt. Throws Error naming a file that cannot be read or an
/// empty prompt.
Prompt read_prompt(const PromptSource& source);
/// Each line of the text is a prompt of its own.
std::vector<Prompt> read_prompt_lines(const PromptSource& source);

/// Says, before a model is loaded, what it would say of the prompt; how long a text is only it knows. Throws Error.
void require_readable(const ModelInfo& model, const Prompt& prompt, const SessionOptions& session);
std::vector<int> token_ids(const Engine& engine, const Prompt& prompt);
/// The prompt as a person reads it: its text, or ids where there is no tokenizer.
std::string readable(const Engine& engine, const Prompt& prompt);

}  // namespace nibble::cli
