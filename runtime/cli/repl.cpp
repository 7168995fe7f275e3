#include "runtime/cli/repl.h"

#include <cstdlib>
#include <iostream>
#include <optional>

#include "runtime/cli/interrupt.h"
#include "runtime/cli/line_editor.h"
#include "runtime/cli/report.h"

namespace nibble {
namespace {

constexpr std::string_view kHelp =
    "What you type is added to the text, and the model goes on from there; an empty line lets it go on by itself.\n"
    "A line that ends in \\ continues on the next; \"\"\" begins and ends a text of several lines.\n"
    "Ctrl-C stops the model; twice on an empty line, or Ctrl-D, leaves.\n"
    "  /help   this\n"
    "  /reset  begin a new text\n"
    "  /stats  speed of the last answer, and memory\n"
    "  /quit   leave\n";
constexpr std::string_view kBlock = "\"\"\"";

/// Where the XDG base directory specification puts what a program remembers.
std::filesystem::path history_file() {
  if (const char* state = std::getenv("XDG_STATE_HOME"); state != nullptr && *state == '/') {
    return std::filesystem::path(state) / "nibble/history";
  }
  const char* home = std::getenv("HOME");
  return std::filesystem::path(home == nullptr ? "." : home) / ".local/state/nibble/history";
}

/// Something typed, of one line or several.
struct Entry {
  std::string text;
  bool is_command;
};

/// Reads entries, not lines: continuations, blocks, and the two ways to leave.
class EntryReader {
 public:
  explicit EntryReader(InterruptGuard& guard) : editor_(history_file()), guard_(guard) {}

  /// Nothing when the user has left.
  std::optional<Entry> next() {
    for (bool warned = false;;) {
      const TypedLine line = editor_.read("> ");
      guard_.clear();
      switch (line.kind) {
        case TypedLine::Kind::kText: {
          std::optional<std::string> text = complete(line.text);
          if (!text) break;
          if (!text->empty()) editor_.remember(*text);
          return Entry{*text, line.text.starts_with('/')};
        }
        case TypedLine::Kind::kCancelled:
          std::cout << '\n';
          break;
        case TypedLine::Kind::kCancelledEmpty:
          std::cout << '\n';
          if (warned) return std::nullopt;
          std::cout << "Ctrl-C again, or Ctrl-D, leaves.\n";
          warned = true;
          continue;
        case TypedLine::Kind::kEnd:
          std::cout << '\n';
          return std::nullopt;
      }
      warned = false;
    }
  }

 private:
  /// The whole entry that begins with `line`; nothing when it was cancelled.
  std::optional<std::string> complete(const std::string& line) {
    const bool is_block = line.starts_with(kBlock);
    std::string text = is_block ? line.substr(kBlock.size()) : line;
    const std::string_view mark = is_block ? kBlock : std::string_view("\\");
    // A block goes on until the mark, a line for as long as it ends in one.
    while (text.ends_with(mark) != is_block) {
      if (!is_block) text.pop_back();
      const TypedLine more = editor_.read(". ");
      guard_.clear();
      if (more.kind != TypedLine::Kind::kText) {
        std::cout << '\n';
        return std::nullopt;
      }
      text += '\n' + more.text;
    }
    if (is_block) text.resize(text.size() - kBlock.size());
    return text;
  }

  LineEditor editor_;
  InterruptGuard& guard_;
};

/// The running text, as ids, and the model that continues it.
class Conversation {
 public:
  Conversation(LoadedModel& model, const GenerateOptions& options, const InterruptGuard& guard)
      : model_(model), options_(options), guard_(guard), prefix_(model.engine.tokenize("")), tokens_(prefix_) {}

  void reset() {
    model_.session.reset();
    tokens_ = prefix_;
  }

  void go_on_from(const std::string& typed) {
    std::vector<int> tokens = tokens_;
    const std::vector<int> added = typed.empty() ? std::vector<int>() : without_prefix(model_.engine.tokenize(typed));
    tokens.insert(tokens.end(), added.begin(), added.end());
    if (tokens.empty()) return;
    if (static_cast<int>(tokens.size()) > context()) return say_full(tokens.size());

    const std::vector<std::vector<int>> prompts{tokens};
    const auto completions = model_.session.generate(prompts, options_, [&](const Step& step) {
      std::cout << step.text << std::flush;
      return !guard_.interrupted();
    });
    std::cout << std::endl;
    const Completion& completion = completions.front();
    tokens_ = std::move(tokens);
    tokens_.insert(tokens_.end(), completion.tokens.begin(), completion.tokens.end());
    if (completion.finish == FinishReason::kContextFull) say_full(tokens_.size());
  }

 private:
  int context() const { return model_.context; }

  std::vector<int> without_prefix(std::vector<int> tokens) const {
    if (tokens.size() >= prefix_.size() && std::equal(prefix_.begin(), prefix_.end(), tokens.begin())) {
      tokens.erase(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(prefix_.size()));
    }
    return tokens;
  }

  void say_full(std::size_t tokens) const {
    std::cout << "The context of " << context() << " tokens is full (the text has " << tokens
              << "); /reset begins a new text.\n";
  }

  LoadedModel& model_;
  const GenerateOptions& options_;
  const InterruptGuard& guard_;
  std::vector<int> prefix_;  ///< what the tokenizer puts before every text
  std::vector<int> tokens_;
};

}  // namespace

int run_repl(LoadedModel& model, const GenerateOptions& options) {
  InterruptGuard guard(InterruptGuard::Again::kIsIgnored);
  Conversation conversation(model, options, guard);
  EntryReader reader(guard);
  std::cout << model.engine.info().name << ", " << to_string(model.engine.info().scheme) << "; /help explains.\n";
  while (const std::optional<Entry> entry = reader.next()) {
    if (!entry->is_command) {
      conversation.go_on_from(entry->text);
    } else if (entry->text == "/help") {
      std::cout << kHelp;
    } else if (entry->text == "/reset") {
      conversation.reset();
    } else if (entry->text == "/stats") {
      print_report(std::cout, model);
    } else if (entry->text == "/quit") {
      break;
    } else {
      std::cout << "There is no command " << entry->text << "; /help lists them.\n";
    }
  }
  return 0;
}

}  // namespace nibble
