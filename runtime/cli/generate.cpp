// nibble generate: continues prompts, once or in an interactive session.
#include <unistd.h>

#include <iostream>
#include <memory>

#include "runtime/cli/commands.h"
#include "runtime/cli/interrupt.h"
#include "runtime/cli/ledger.h"
#include "runtime/cli/prompt.h"
#include "runtime/cli/repl.h"
#include "runtime/cli/report.h"

namespace nibble {
namespace {

struct GenerateFlags {
  ModelFlags model;
  PromptFlags prompt;
  SamplingFlags sampling;
  SessionOptions session;
  bool hide_prompt = false;
  bool json = false;
  bool dry_run = false;
};

void add_flags(CLI::App& app, GenerateFlags& flags) {
  add_model_flags(app, flags.model);
  add_prompt_flags(app, flags.prompt);
  add_prompt_file_flags(app, flags.prompt);
  constexpr int kMost = std::numeric_limits<int>::max();
  add_number<int>(app, "-c,--ctx-size", "Most tokens of a sequence, prompt included (default 0: all the model was made for)",
                  {0, kMost}, [&flags](int value) { flags.session.context = value; });
  flags.sampling.add_to(app);
  app.add_flag("--no-display-prompt", flags.hide_prompt, "Print the generated text alone");
  CLI::Option* json = app.add_flag("--json", flags.json, "Print one JSON document: ids, text, speed, memory in bytes");
  app.get_option("--logprobs")->needs(json);
  CLI::Option* dry_run = app.add_flag("--dry-run", flags.dry_run,
                                      "Print the memory it would take, from the files' headers alone, and do nothing");
  add_number<int>(app, "--parallel", "With --dry-run: sequences generated at once; also -np (default 1)", {1, kMost},
                  [&flags](int value) { flags.session.sequences = value; })
      ->needs(dry_run);
}

int dry_run(const GenerateFlags& flags) {
  const MemoryLedger ledger = predict_memory(flags.model.model, flags.model.load, flags.session);
  if (flags.json) {
    print_json({{"model", flags.model.model}, {"memory", {{"predicted", ledger_json(ledger)}}}});
  } else {
    print_ledger(std::cout, ledger);
  }
  return 0;
}

bool is_interactive(const PromptFlags& prompt) {
  return !prompt.given && !prompt.file && isatty(STDIN_FILENO) != 0;
}

/// What is shown of a step or a completion: text, or ids in place of it.
std::string shown(const Completion& completion, bool has_tokenizer) {
  return has_tokenizer ? completion.text : token_list(completion.tokens);
}

/// Prints the prompt and its continuation as it comes.
OnStep stream_to_stdout(const std::string& prompt, bool has_tokenizer, const InterruptGuard& guard) {
  std::cout << prompt << std::flush;
  return [&guard, has_tokenizer, separator = prompt.empty() ? "" : ","](const Step& step) mutable {
    if (has_tokenizer) {
      std::cout << step.text << std::flush;
    } else {
      std::cout << separator << step.id << std::flush;
      separator = ",";
    }
    return !guard.interrupted();
  };
}

void print_batch(const GenerateFlags& flags, const Engine& engine, const std::vector<Prompt>& prompts,
                 const std::vector<Completion>& completions) {
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    if (!flags.hide_prompt) std::cout << prompt_text(prompts[i], engine) << '\n';
    std::cout << shown(completions[i], engine.info().has_tokenizer) << "\n\n";
  }
}

int run(GenerateFlags& flags) {
  if (flags.dry_run) return dry_run(flags);
  if (is_interactive(flags.prompt)) {
    if (flags.json) throw UsageError("--json: expected a prompt (-p, -f, --tokens or standard input), found none");
    LoadedModel model = load_model(flags.model, flags.session);
    GenerateOptions options = model.engine.default_options();
    flags.sampling.apply(options);
    return run_repl(model, options);
  }

  const std::vector<Prompt> prompts = read_prompts(flags.prompt);
  flags.session.sequences = static_cast<int>(prompts.size());
  LoadedModel model = load_model(flags.model, flags.session);
  GenerateOptions options = model.engine.default_options();
  flags.sampling.apply(options);
  std::vector<std::vector<int>> ids;
  for (const Prompt& prompt : prompts) ids.push_back(prompt_tokens(prompt, model.engine));

  const InterruptGuard guard(InterruptGuard::Again::kEndsTheProgram);
  const bool streams = !flags.json && !flags.prompt.lines;
  const bool has_tokenizer = model.engine.info().has_tokenizer;
  const std::string echo = flags.hide_prompt ? "" : prompt_text(prompts.front(), model.engine);
  const OnStep on_step = streams ? stream_to_stdout(echo, has_tokenizer, guard)
                                 : [&guard](const Step&) { return !guard.interrupted(); };
  const std::vector<Completion> completions = model.session.generate(ids, options, on_step);

  if (flags.json) {
    print_json(generation_json(model, options, completions));
  } else {
    if (streams) std::cout << std::endl;
    else print_batch(flags, model.engine, prompts, completions);
    std::cout.flush();
    std::cerr << '\n';
    if (options.temperature > 0) std::cerr << "seed = " << options.seed << '\n';
    print_report(std::cerr, model);
  }
  return guard.interrupted() ? kInterruptedStatus : 0;
}

}  // namespace

Action setup_generate(CLI::App& app) {
  auto flags = std::make_shared<GenerateFlags>();
  add_flags(app, *flags);
  return [flags] { return run(*flags); };
}

}  // namespace nibble
