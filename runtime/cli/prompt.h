// What a command is asked to read: text, or token ids.
#pragma once

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include <CLI/App.hpp>

#include "nibble/engine.h"

namespace nibble {

/// Text, or ids where there is no tokenizer or none is wanted.
using Prompt = std::variant<std::string, std::vector<int>>;

struct PromptFlags {
  std::optional<Prompt> given;  ///< -p or --tokens
  std::optional<std::string> file;
  bool lines = false;  ///< each line of the file is a prompt
};

/// -p and --tokens, of which one may be given.
void add_prompt_flags(CLI::App& app, PromptFlags& flags);
/// -f and --lines, in place of those.
void add_prompt_file_flags(CLI::App& app, PromptFlags& flags);

/// At least one prompt, none of them empty; from standard input when no flag names one. Throws Error.
std::vector<Prompt> read_prompts(const PromptFlags& flags);

/// Throws Error for text without a tokenizer.
std::vector<int> prompt_tokens(const Prompt& prompt, const Engine& engine);

/// The prompt as people read it: its text, or the ids' where they have one, or the ids.
std::string prompt_text(const Prompt& prompt, const Engine& engine);

/// "2,17,9", as --tokens takes them.
std::string token_list(const std::vector<int>& tokens);

}  // namespace nibble
