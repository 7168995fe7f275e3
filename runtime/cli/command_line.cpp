#include "runtime/cli/command_line.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <array>

#include "nibble/engine.h"
#include "runtime/cli/flags.h"
#include "runtime/cli/render.h"

namespace nibble::cli {
namespace {

struct Command {
  const char* name;
  const char* help;
  Action (*declare)(CLI::App& app);
};

constexpr std::array<Command, 6> kCommands{{
    {"generate", "Go on from a prompt, or interactively", declare_generate},
    {"logits", "Write the logits of every position of a text", declare_logits},
    {"quantize", "Write a checkpoint again with quantized weights", declare_quantize},
    {"inspect", "Show what each scheme does to sizes, shapes and values", declare_inspect},
    {"perplexity", "Measure how well a model predicts a text, and what quantization costs it", declare_perplexity},
    {"bench", "Measure speed, memory and quality over schemes, dtypes and sizes", declare_bench},
}};

Action printing(std::string text) {
  return [text = std::move(text)] {
    print(text);
    return kSuccess;
  };
}

/// The sentence for what CLI11 found wrong.
std::string sentence(const CLI::App& app, const CLI::ParseError& error) {
  const auto chosen = app.get_subcommands();
  if (chosen.empty()) {
    return fmt::format("expected a command ({}), found {}; nibble --help explains them",
                       fmt::join(
                           [] {
                             std::vector<const char*> names;
                             for (const Command& command : kCommands) names.push_back(command.name);
                             return names;
                           }(),
                           ", "),
                       app.remaining().empty() ? "none" : in_quotes(app.remaining().front()));
  }
  const std::string name = chosen.front()->get_name();
  const std::vector<std::string> unknown = app.remaining(true);
  if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr && !unknown.empty()) {
    return fmt::format("{0}: does not know {1}; nibble {0} --help lists what it knows", name,
                       in_quotes(unknown.front()));
  }
  const std::string what = error.what();
  if (dynamic_cast<const CLI::ArgumentMismatch*>(&error) != nullptr) {
    return fmt::format("{}: {}: expected a value, found none", name, what.substr(0, what.find(':')));
  }
  return fmt::format("{}: {}", name, what);
}

}  // namespace

CommandLine parse_command_line(std::vector<std::string> arguments) {
  CLI::App app("Runs language models of the OPT family from quantized or plain checkpoints.", "nibble");
  app.set_version_flag("--version", std::string(version()), "Print the version and leave");
  app.require_subcommand(1);
  CommandLine line;
  std::vector<std::pair<const CLI::App*, Action>> actions;
  for (const Command& command : kCommands) {
    CLI::App& declared = *app.add_subcommand(command.name, command.help);
    actions.emplace_back(&declared, command.declare(declared));
    declared.add_flag("-v,--verbose", line.verbose, "Say on standard error what the library does");
  }
  // llama.cpp's one short flag of two letters, which CLI11 would read as -n p.
  std::ranges::replace(arguments, "-np", "--parallel");
  std::ranges::reverse(arguments);  // as CLI11 wants them
  try {
    app.parse(std::move(arguments));
  } catch (const CLI::CallForHelp&) {
    line.run = printing(app.help());
    return line;
  } catch (const CLI::CallForVersion& version) {
    line.run = printing(std::string(version.what()) + "\n");
    return line;
  } catch (const CLI::ParseError& error) {
    throw UsageError(sentence(app, error));
  }
  const CLI::App* chosen = app.get_subcommands().front();
  line.run = std::ranges::find(actions, chosen, &decltype(actions)::value_type::first)->second;
  return line;
}

}  // namespace nibble::cli
