#include "runtime/cli/repl.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string>

#include "nibble/error.h"
#include "runtime/cli/interrupt.h"
#include "runtime/cli/ledger.h"
#include "runtime/cli/line_editor.h"
#include "runtime/cli/render.h"
#include "runtime/cli/speed.h"

namespace nibble::cli {
namespace {

constexpr std::string_view kBlock = "\"\"\"";

class Repl {
 public:
  Repl(Opened& model, GenerateOptions options) : model_(model), options_(std::move(options)), editor_(history_file()) {}

  void run();

 private:
  struct Command {
    std::string_view name;
    std::string_view usage;
    void (Repl::*run)(std::string_view argument);
  };
  static const std::array<Command, 5> kCommands;

  /// What was typed: text for the model, or a command with its slash. Nothing when the user leaves.
  struct Entry {
    bool is_command;
    std::string text;
  };
  std::optional<Entry> read_entry();
  /// Reads on after the first line of an entry until `more` says that there are no more lines. Nothing when given up.
  std::optional<std::string> read_block(std::string first);
  std::optional<std::string> read_continued(std::string first);

  void obey(std::string_view line);
  void go_on(const std::string& typed);

  void help(std::string_view);
  void set(std::string_view argument);
  void reset(std::string_view);
  void stats(std::string_view);
  void quit(std::string_view) { leaving_ = true; }

  Opened& model_;
  GenerateOptions options_;
  std::string text_;  ///< the running text
  bool leaving_ = false;
  LineEditor editor_;
};

constexpr std::array<Repl::Command, 5> Repl::kCommands{{
    {"/help", "/help             this list", &Repl::help},
    {"/set", "/set NAME VALUE   change one of the settings below", &Repl::set},
    {"/reset", "/reset            forget the text and start another", &Repl::reset},
    {"/stats", "/stats            speed of the last generation, memory and context in use", &Repl::stats},
    {"/quit", "/quit             leave (also Ctrl-D, or Ctrl-C twice)", &Repl::quit},
}};

std::optional<std::string> Repl::read_block(std::string first) {
  std::string text = first.substr(kBlock.size());
  while (!text.ends_with(kBlock)) {
    const LineEditor::Input line = editor_.read(". ");
    if (line.event != LineEditor::Event::kLine) return std::nullopt;
    text += (text.empty() ? "" : "\n") + line.text;
  }
  text.resize(text.size() - kBlock.size());
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

std::optional<std::string> Repl::read_continued(std::string first) {
  while (first.ends_with('\\')) {
    const LineEditor::Input line = editor_.read(". ");
    if (line.event != LineEditor::Event::kLine) return std::nullopt;
    first.back() = '\n';
    first += line.text;
  }
  return first;
}

std::optional<Repl::Entry> Repl::read_entry() {
  bool warned = false;
  while (true) {
    LineEditor::Input line = editor_.read("> ");
    if (line.event != LineEditor::Event::kLine) print("\n");
    if (line.event == LineEditor::Event::kEnd) return std::nullopt;
    if (line.event == LineEditor::Event::kInterrupt) {
      if (warned && line.text.empty()) return std::nullopt;
      warned = line.text.empty();
      if (warned) print("(Ctrl-C again or Ctrl-D leaves)\n");
      continue;
    }
    warned = false;
    const bool block = line.text.starts_with(kBlock);
    if (!block && line.text.starts_with('/')) return Entry{true, std::move(line.text)};
    std::optional<std::string> text = block ? read_block(std::move(line.text)) : read_continued(std::move(line.text));
    if (text) return Entry{false, std::move(*text)};
    print("\n");
  }
}

void Repl::obey(std::string_view line) {
  const std::size_t space = std::min(line.find(' '), line.size());
  const std::string_view name = line.substr(0, space);
  const auto command = std::ranges::find(kCommands, name, &Command::name);
  if (command == kCommands.end()) {
    print(fmt::format("{}: no such command; /help lists them\n", in_quotes(name)));
    return;
  }
  (this->*command->run)(line.substr(std::min(space + 1, line.size())));
}

void Repl::go_on(const std::string& typed) {
  if (text_.empty() && typed.empty()) return;
  forget_interrupt();
  try {
    const Completion completion = model_.session.generate(
        text_ + typed, options_,
        [](const Step& step) {
          print(step.text);
          return !interrupted();
        },
        [](int, int) { return !interrupted(); });
    text_ += typed + completion.text;
    print("\n");
    if (completion.finish == FinishReason::kContextFull) {
      print("(the context is full: /reset starts another text)\n");
    }
  } catch (const Error& error) {
    print(fmt::format("nibble: {}\n", error.what()));
  }
}

void Repl::help(std::string_view) {
  print(
      "What you type is added to the text as it is, and the model goes on from there; an empty line lets it go on.\n"
      "A line that ends in \\ goes on in the next; \"\"\" begins and ends a text of many lines. Ctrl-C stops the "
      "model.\n");
  for (const Command& command : kCommands) print(fmt::format("  {}\n", command.usage));
  print("Settings, as the flags of the same names:\n");
  for (const SamplingFlag& flag : sampling_flags()) print(fmt::format("  {:<18}{}\n", flag.name(), flag.help));
}

void Repl::set(std::string_view argument) {
  const std::size_t space = std::min(argument.find(' '), argument.size());
  const auto flag = std::ranges::find(sampling_flags(), argument.substr(0, space), &SamplingFlag::name);
  if (flag == sampling_flags().end()) {
    print(fmt::format("{}: no such setting; /help lists them\n", in_quotes(argument.substr(0, space))));
    return;
  }
  try {
    const std::string text(argument.substr(std::min(space + 1, argument.size())));
    flag->read(FlagValue(std::string(flag->name()), text))(options_);
  } catch (const UsageError& error) {
    print(fmt::format("{}\n", error.what()));
  }
}

void Repl::reset(std::string_view) {
  text_.clear();
  model_.session.reset();
}

void Repl::stats(std::string_view) {
  const std::size_t used = text_.empty() ? 0 : model_.engine.tokenize(text_).size();
  print(speed_line(model_.session.last_stats()) + ledger_text(model_.predicted, model_.session.memory()) +
        fmt::format("context: {} of {} tokens\n", used, model_.context));
}

void Repl::run() {
  const ModelInfo& info = model_.engine.info();
  print(
      fmt::format("{}: {}, {} weights, computing in {}\nType text and the model goes on from there; /help explains.\n",
                  version(), info.name, to_string(info.scheme), to_string(info.compute_dtype)));
  while (!leaving_) {
    const std::optional<Entry> entry = read_entry();
    if (!entry) break;
    if (entry->is_command) {
      obey(entry->text);
    } else {
      go_on(entry->text);
    }
  }
}

}  // namespace

void run_repl(Opened& model, GenerateOptions options) {
  const InterruptGuard guard({SIGINT});
  Repl(model, std::move(options)).run();
}

}  // namespace nibble::cli
