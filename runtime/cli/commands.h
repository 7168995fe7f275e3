// What a command is, and those there are. A command lives in the file of its name.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>

namespace nibble::cli {

/// What a program leaves behind; interrupt.h has those of one that a signal ends.
enum ExitCode : std::uint8_t { kSuccess = 0, kFailure = 1, kUsage = 2 };

/// Does what the command line asks for. Throws Error, UsageError or Interrupted.
using Action = std::function<ExitCode()>;

// Each declares the command's flags on `app` and returns what is to be done once they are parsed.
Action declare_generate(CLI::App& app);
Action declare_logits(CLI::App& app);
Action declare_quantize(CLI::App& app);
Action declare_inspect(CLI::App& app);
Action declare_perplexity(CLI::App& app);
Action declare_bench(CLI::App& app);

}  // namespace nibble::cli
