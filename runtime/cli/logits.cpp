// nibble logits: the logits of every position of a prompt, as a safetensors file that anyone can compare.
#include <memory>

#include "nibble/nibble.h"
#include "runtime/cli/commands.h"
#include "runtime/cli/model.h"
#include "runtime/cli/prompt.h"

namespace nibble {
namespace {

struct LogitsFlags {
  ModelFlags model;
  PromptFlags prompt;
  std::vector<std::uint8_t> mask;
  std::string output;
};

int run(const LogitsFlags& flags) {
  const Prompt prompt = read_prompts(flags.prompt).front();
  LoadedModel model = load_model(flags.model, {});
  const std::vector<int> tokens = prompt_tokens(prompt, model.engine);
  const std::vector<float> logits = model.session.logits(tokens, flags.mask);
  save_tensor(flags.output, "logits", logits, static_cast<std::int64_t>(tokens.size()), model.engine.info().vocab_size);
  return 0;
}

}  // namespace

Action setup_logits(CLI::App& app) {
  auto flags = std::make_shared<LogitsFlags>();
  add_model_flags(app, flags->model);
  add_prompt_flags(app, flags->prompt);
  app.add_option("-o,--output", flags->output, "File to write: tensor logits, fp32, [tokens, vocabulary]")
      ->type_name("FILE.safetensors")
      ->required();
  add_text(app, "--attention-mask", "BITS", "One 0 or 1 a token, as in 0,1,1; a token under 0 is not seen (default: all are)",
           [mask = &flags->mask](const std::string& flag, const std::string& text) {
             const std::vector<int> bits = parse_list(flag, text, {0, 1});
             mask->assign(bits.begin(), bits.end());
           });
  return [flags] { return run(*flags); };
}

}  // namespace nibble
