#include "runtime/cli/speed.h"

#include <spdlog/fmt/fmt.h>

namespace nibble::cli {
namespace {

double rate(int tokens, double seconds) { return seconds > 0 ? tokens / seconds : 0; }

}  // namespace

double prefill_rate(const GenerateStats& stats) { return rate(stats.prefill_tokens, stats.prefill_seconds); }

double decode_rate(const GenerateStats& stats) { return rate(stats.decode_tokens, stats.decode_seconds); }

std::string speed_line(const GenerateStats& stats) {
  return fmt::format(
      "[ Prompt: {:.1f} t/s ({} tokens) | Generation: {:.1f} t/s ({} tokens) | First token: {:.1f} ms ]\n",
      prefill_rate(stats), stats.prefill_tokens, decode_rate(stats), stats.decode_tokens,
      stats.first_token_seconds * 1e3);
}

}  // namespace nibble::cli
