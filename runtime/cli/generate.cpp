// nibble generate: goes on from a prompt, from many, or from what is typed.
#include <spdlog/fmt/fmt.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "nibble/error.h"
#include "runtime/cli/commands.h"
#include "runtime/cli/interrupt.h"
#include "runtime/cli/json.h"
#include "runtime/cli/ledger.h"
#include "runtime/cli/opening.h"
#include "runtime/cli/prompt.h"
#include "runtime/cli/render.h"
#include "runtime/cli/repl.h"
#include "runtime/cli/speed.h"

namespace nibble::cli {
namespace {

struct GenerateArguments {
  ModelArguments model;
  SessionOptions session;
  PromptSource prompt;
  std::vector<OptionChange> changes;
  bool lines = false;
  bool json = false;
  bool dry_run = false;
  bool hide_prompt = false;
};

void declare(CLI::App& app, GenerateArguments& a) {
  add_model_flags(app, a.model);
  add_compute_flags(app, a.model.load);
  add_prompt_flags(app, a.prompt);
  app.add_flag("--lines", a.lines, "Take each line of the text as a prompt of its own and generate them all at once");
  add_value(
      app, "-c,--ctx-size", "N",
      [&](const FlagValue& value) { a.session.context = value.number("a whole number of at least 0", 0); },
      "Most tokens of prompt and generated text, 0: as many as the model was made for (default: 0)");
  add_sampling_flags(app, a.changes);
  CLI::Option* json = app.add_flag("--json", a.json, "Print one JSON document at the end in place of text");
  add_value(
      app, "--logprobs", "N",
      [&](const FlagValue& value) {
        const int count = value.number("a whole number of at least 0", 0);
        a.changes.push_back([count](GenerateOptions& options) { options.logprobs = count; });
      },
      "Report natural log-probabilities of each token and of the N likeliest")
      ->needs(json);
  app.add_flag("--no-display-prompt", a.hide_prompt, "Print only what is generated");
  CLI::Option* dry_run = app.add_flag("--dry-run", a.dry_run, "Print the memory it would take, and load nothing");
  add_value(
      app, "--parallel", "N",
      [&](const FlagValue& value) { a.session.sequences = value.number("a whole number of at least 1", 1); },
      "Sequences at once, also written -np (default: 1)")
      ->needs(dry_run);
  app.footer("Without a prompt it reads standard input; from a terminal, line by line as an interactive session.");
}

/// What a device has left, or why that is not known: a prediction needs no device.
struct Available {
  std::optional<std::uint64_t> bytes;
  std::string why_not;

  explicit Available(Device device) {
    try {
      bytes = available_memory(device);
    } catch (const Error& error) {
      why_not = error.what();
    }
  }
};

std::string verdict(const MemoryLedger& ledger, Device device) {
  const Available available(device);
  if (!available.bytes) return fmt::format("Whether it fits is not known: {}\n", available.why_not);
  return fmt::format("It {}: the {} has {} MB left\n", ledger.total() <= *available.bytes ? "fits" : "does not fit",
                     to_string(device), megabytes(*available.bytes));
}

ExitCode dry_run(const GenerateArguments& a) {
  const MemoryLedger ledger = predict_memory(a.model.model, a.model.load, a.session);
  if (a.json) {
    const auto available = Available(a.model.load.device).bytes;
    print_json({{"model", {{"name", a.model.model}}},
                {"memory",
                 {{"predicted", ledger_json(ledger)}, {"available", available ? Json(*available) : Json(nullptr)}}}});
    return kSuccess;
  }
  print(fmt::format("{}: {} parameters\n{}{}", a.model.model, ledger.parameters, ledger_text(ledger),
                    verdict(ledger, a.model.load.device)));
  return kSuccess;
}

GenerateOptions generate_options(const Engine& engine, const std::vector<OptionChange>& changes) {
  GenerateOptions options = engine.default_options();
  for (const OptionChange& change : changes) change(options);
  return options;
}

/// Prints a prompt and what goes on from it as it comes: text, or ids where there is no tokenizer. Nothing before the
/// first step, so that a prompt the model refuses leaves nothing behind.
class Stream {
 public:
  Stream(bool has_tokenizer, const std::string& prompt)
      : between_(has_tokenizer ? "" : ","), next_(prompt.empty() ? "" : prompt + between_) {}

  void show(const Step& step) {
    print(next_ + (between_.empty() ? std::string(step.text) : std::to_string(step.id)));
    next_ = between_;
  }

 private:
  std::string between_;  ///< what separates steps
  std::string next_;     ///< what goes before the next one
};

void print_lines(const Engine& engine, const std::vector<Prompt>& prompts, const std::vector<Completion>& completions,
                 bool hide_prompt) {
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    if (!hide_prompt) print(fmt::format("> {}\n", readable(engine, prompts[i])));
    print(completions[i].text + (hide_prompt ? "\n" : "\n\n"));
  }
}

void print_document(const Opened& model, const GenerateOptions& options, const std::vector<Completion>& completions) {
  Json document{{"model", model_json(model.engine.info())}, {"seed", options.seed}, {"completions", Json::array()}};
  for (const Completion& completion : completions) document["completions"].push_back(completion_json(completion));
  document["load_seconds"] = model.load_seconds;
  document["stats"] = stats_json(model.session.last_stats());
  document["memory"] = {{"predicted", ledger_json(model.predicted)}, {"measured", ledger_json(model.session.memory())}};
  print_json(document);
}

ExitCode generate_once(const GenerateArguments& a) {
  const std::vector<Prompt> prompts =
      a.lines ? read_prompt_lines(a.prompt) : std::vector<Prompt>{read_prompt(a.prompt)};
  const SessionOptions session{a.session.context, static_cast<int>(prompts.size())};
  const ModelInfo info = describe_model(a.model.model, a.model.load);
  for (const Prompt& prompt : prompts) require_readable(info, prompt, session);
  Opened model = open_model(a.model, session);
  std::vector<std::vector<int>> ids;
  for (const Prompt& prompt : prompts) ids.push_back(token_ids(model.engine, prompt));
  const GenerateOptions options = generate_options(model.engine, a.changes);

  const InterruptGuard guard({SIGINT});
  const bool streams = !a.json && !a.lines;
  Stream stream(model.engine.info().has_tokenizer, a.hide_prompt ? "" : readable(model.engine, prompts.front()));
  const std::vector<Completion> completions = model.session.generate(
      ids, options,
      [&](const Step& step) {
        if (streams) stream.show(step);
        return !interrupted();
      },
      [](int, int) { return !interrupted(); });

  if (a.json) {
    print_document(model, options, completions);
  } else {
    if (streams) print("\n");
    if (a.lines) print_lines(model.engine, prompts, completions, a.hide_prompt);
    if (std::ranges::find(completions, FinishReason::kContextFull, &Completion::finish) != completions.end()) {
      note(fmt::format("\nthe context of {} tokens is full\n", model.context));
    }
    note(fmt::format("\n[ Load: {:.2f} s ]\n", model.load_seconds) + speed_line(model.session.last_stats()) +
         ledger_text(model.predicted, model.session.memory()));
  }
  return interrupted() ? interrupt_code() : kSuccess;
}

ExitCode generate_interactively(const GenerateArguments& a) {
  if (a.json || a.lines) {
    throw UsageError(fmt::format("{}: expected a prompt (-p, -f, --tokens or standard input), found a terminal",
                                 a.json ? "--json" : "--lines"));
  }
  const ModelInfo info = describe_model(a.model.model, a.model.load);
  if (!info.has_tokenizer) {
    throw Error(ErrorKind::kUnsupported,
                info.name + ": has no tokenizer, which an interactive session needs; give --tokens");
  }
  Opened model = open_model(a.model, {a.session.context, 1});
  run_repl(model, generate_options(model.engine, a.changes));
  return kSuccess;
}

ExitCode generate(const GenerateArguments& a) {
  if (a.dry_run) return dry_run(a);
  const bool typed = std::holds_alternative<StandardInput>(a.prompt) && isatty(STDIN_FILENO) == 1;
  return typed ? generate_interactively(a) : generate_once(a);
}

}  // namespace

Action declare_generate(CLI::App& app) {
  const auto arguments = std::make_shared<GenerateArguments>();
  declare(app, *arguments);
  return [arguments] { return generate(*arguments); };
}

}  // namespace nibble::cli
