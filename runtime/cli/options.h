// Groups of flags that several commands share.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "nibble/engine.h"
#include "runtime/cli/flags.h"

namespace nibble::cli {

/// Which model, and how to hold it.
struct ModelArguments {
  std::string model;
  LoadOptions load;
};

/// Every scheme, for messages and help: "none, int8, ... or int4-asym".
std::string scheme_names(std::string_view conjunction);

/// --scheme, --dtype, --embedding, --blocksize, --threads. Returns --scheme.
CLI::Option* add_weight_flags(CLI::App& app, LoadOptions& load);
/// -m and the weight flags.
void add_model_flags(CLI::App& app, ModelArguments& arguments);
/// --device and the CPU flags, for commands that compute.
void add_compute_flags(CLI::App& app, LoadOptions& load);
/// --cpu-target, --pin-threads and --int8-activations.
void add_cpu_flags(CLI::App& app, LoadOptions& load);

/// A change to the checkpoint's own generation settings.
using OptionChange = std::function<void(GenerateOptions&)>;

/// A setting of the sampler: a flag of the command line and, by the last of its names, of an interactive session.
struct SamplingFlag {
  const char* names;  ///< as CLI11 takes them: "-n,--n-predict"
  const char* type;   ///< of its value, for help
  const char* help;
  OptionChange (*read)(const FlagValue& value);

  /// "n-predict"
  std::string_view name() const;
};

std::span<const SamplingFlag> sampling_flags();

/// The sampling flags, --ignore-eos and -r; each that is given adds to `changes`.
void add_sampling_flags(CLI::App& app, std::vector<OptionChange>& changes);

}  // namespace nibble::cli
