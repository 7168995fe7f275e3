// nibble quantize: a checkpoint written again with quantized weights.
#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <memory>

#include "nibble/inspect.h"
#include "runtime/cli/commands.h"
#include "runtime/cli/interrupt.h"
#include "runtime/cli/options.h"
#include "runtime/cli/render.h"

namespace nibble::cli {
namespace {

struct QuantizeArguments {
  std::string source, destination;
  LoadOptions weights;
  std::uint64_t shard_bytes = QuantizeOptions{}.shard_bytes;
  bool quiet = false;
};

void declare(CLI::App& app, QuantizeArguments& a) {
  app.add_option("SRC", a.source, "Checkpoint directory to read")->type_name("")->required();
  app.add_option("DST", a.destination, "Directory to make; it appears when it is complete")->type_name("")->required();
  add_weight_flags(app, a.weights)->required();
  add_value(
      app, "--max-shard-size", "SIZE", [&](const FlagValue& value) { a.shard_bytes = value.bytes(); },
      "Largest weight file: 500MB, 5GB, 4GiB (default: 5GB)");
  app.add_flag("-q,--quiet", a.quiet, "Show no progress and no summary");
}

std::uint64_t weight_bytes(const std::string& model) { return predict_memory(model).weights(); }

ExitCode quantize(const QuantizeArguments& a) {
  QuantizeOptions options;
  options.scheme = a.weights.scheme.value_or(options.scheme);
  options.blocksize = a.weights.blocksize;
  options.dtype = a.weights.compute_dtype;
  options.embedding = a.weights.embedding.value_or(options.embedding);
  options.shard_bytes = a.shard_bytes;
  options.threads = a.weights.threads;
  {
    const InterruptGuard guard({SIGINT, SIGTERM, SIGHUP});
    ProgressDisplay display("quantizing", a.quiet ? ProgressStyle::kNone : progress_style(ProgressStyle::kLines));
    nibble::quantize(a.source, a.destination, options, [&](std::uint64_t done, std::uint64_t total) {
      display.update(done, total);
      if (interrupted()) throw Interrupted();
    });
  }
  if (a.quiet) return kSuccess;
  const std::uint64_t before = weight_bytes(a.source);
  const std::uint64_t after = weight_bytes(a.destination);
  const double larger = static_cast<double>(std::max(before, after)),
               smaller = static_cast<double>(std::min(before, after));
  print(fmt::format("{}: {}, weights {} MB, were {} MB: {:.2f} times {}\n", a.destination, to_string(options.scheme),
                    megabytes(after), megabytes(before), larger / smaller, after > before ? "larger" : "smaller"));
  return kSuccess;
}

}  // namespace

Action declare_quantize(CLI::App& app) {
  const auto arguments = std::make_shared<QuantizeArguments>();
  declare(app, *arguments);
  return [arguments] { return quantize(*arguments); };
}

}  // namespace nibble::cli
