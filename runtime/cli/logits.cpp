// nibble logits: what the model says after every token, as a file that anyone can compare.
#include <spdlog/fmt/fmt.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>

#include "nibble/error.h"
#include "nibble/inspect.h"
#include "runtime/cli/commands.h"
#include "runtime/cli/interrupt.h"
#include "runtime/cli/opening.h"
#include "runtime/cli/prompt.h"
#include "runtime/cli/render.h"

namespace nibble::cli {
namespace {

struct LogitsArguments {
  ModelArguments model;
  PromptSource prompt;
  std::vector<std::uint8_t> attention_mask;
  std::string output;
};

void declare(CLI::App& app, LogitsArguments& a) {
  add_model_flags(app, a.model);
  add_compute_flags(app, a.model.load);
  add_prompt_flags(app, a.prompt);
  add_value(
      app, "--attention-mask", "BITS",
      [&](const FlagValue& value) {
        const std::vector<int> bits = value.list("0 or 1 for each token such as 0,1,1", 1);
        a.attention_mask.assign(bits.begin(), bits.end());
      },
      "0 for each token that is not there, such as padding, 1 for the others: 0,1,1 (default: all are there)");
  app.add_option("-o,--output", a.output, "Safetensors file to write: tensor logits, fp32, [tokens, vocabulary]")
      ->type_name("FILE")
      ->take_last()
      ->required();
}

/// Says before any work what would be said after it.
void require_folder(const std::string& file) {
  const std::filesystem::path folder = std::filesystem::path(file).parent_path();
  if (::access(folder.empty() ? "." : folder.c_str(), W_OK | X_OK) == 0) return;
  throw Error(ErrorKind::kIo, fmt::format("{}: cannot be written: {}", file, std::strerror(errno)));
}

ExitCode logits(const LogitsArguments& a) {
  require_folder(a.output);
  const Prompt prompt = read_prompt(a.prompt);
  const ModelInfo info = describe_model(a.model.model, a.model.load);
  if (a.attention_mask.empty()) require_readable(info, prompt, {});  // tokens that are not there are not asked about
  Opened model = open_model(a.model, {});
  const std::vector<int> tokens = token_ids(model.engine, prompt);
  const std::vector<float> values = model.session.logits(tokens, a.attention_mask);
  const auto rows = static_cast<std::int64_t>(tokens.size());
  const std::int64_t columns = model.engine.info().vocab_size;
  {
    const InterruptGuard guard({SIGINT, SIGTERM, SIGHUP});  // a file that is begun becomes whole
    save_tensor(a.output, "logits", values, rows, columns);
  }
  print(fmt::format("{}: logits {}, fp32\n", a.output, shape_text({rows, columns})));
  return kSuccess;
}

}  // namespace

Action declare_logits(CLI::App& app) {
  const auto arguments = std::make_shared<LogitsArguments>();
  declare(app, *arguments);
  return [arguments] { return logits(*arguments); };
}

}  // namespace nibble::cli
