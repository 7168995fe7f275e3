// nibble quantize: a checkpoint, written again with its weights quantized.
#include <filesystem>
#include <iostream>
#include <memory>

#include "nibble/inspect.h"
#include "runtime/cli/commands.h"
#include "runtime/cli/options.h"
#include "runtime/cli/render.h"

namespace nibble {
namespace {

struct QuantizeFlags {
  std::string source, destination;
  std::optional<Scheme> scheme;
  std::optional<EmbeddingStorage> embedding;
  QuantizeOptions options;
};

/// Bytes of the weight files of a checkpoint directory.
std::uint64_t weight_file_bytes(const std::string& directory) {
  std::uint64_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    const std::string extension = entry.path().extension().string();
    if (extension == ".safetensors" || extension == ".bin") bytes += entry.file_size();
  }
  return bytes;
}

int run(QuantizeFlags& flags) {
  flags.options.scheme = *flags.scheme;
  flags.options.embedding = flags.embedding.value_or(EmbeddingStorage::kCompute);
  quantize(flags.source, flags.destination, flags.options, progress_bar("quantizing"));
  const std::uint64_t before = weight_file_bytes(flags.source);
  const std::uint64_t after = weight_file_bytes(flags.destination);
  std::cout << flags.source << ": " << megabytes(before) << " MB\n"
            << flags.destination << ": " << megabytes(after) << " MB (" << to_string(*flags.scheme) << "), "
            << fixed(static_cast<double>(before) / static_cast<double>(after), 2) << " times smaller\n";
  return 0;
}

}  // namespace

Action setup_quantize(CLI::App& app) {
  auto flags = std::make_shared<QuantizeFlags>();
  QuantizeOptions& options = flags->options;
  app.add_option("SRC", flags->source, "Checkpoint directory to read")->type_name("")->required();
  app.add_option("DST", flags->destination, "Directory to write; must not exist")->type_name("")->required();
  add_scheme(app, flags->scheme)->required();
  add_blocksize(app, options.blocksize);
  add_dtype(app, options.dtype);
  add_embedding(app, flags->embedding);
  add_threads(app, options.threads);
  add_text(app, "--max-shard-size", "SIZE", "Largest file, in bytes or with KB, MB, GB, TB (default 5GB)",
           [&options](const std::string& flag, const std::string& text) { options.shard_bytes = parse_bytes(flag, text); });
  return [flags] { return run(*flags); };
}

}  // namespace nibble
