// What a benchmark found, as a person or a program reads it. Keys are llama-bench's where they mean the same.
#pragma once

#include <optional>
#include <string_view>

#include "nibble/engine.h"
#include "runtime/cli/figures.h"
#include "runtime/cli/quality.h"

namespace nibble::cli {

struct BenchResult {
  BenchTest test;
  ModelInfo model;
  Device device;
  int threads;
  MemoryLedger memory;    ///< measured
  std::uint64_t peak;     ///< resident set of the process, loading included; on a GPU what its buffers take
  Samples seconds;        ///< for all of the test's tokens
  Samples first_token;    ///< seconds
  std::uint64_t reads;    ///< bytes of weights and cache; 0 for a prompt, whose speed they do not bound
  double read_bandwidth;  ///< the roofline, in bytes a second
  std::optional<Perplexity> perplexity;

  Samples tokens_per_second() const { return seconds.rates(test.tokens()); }
  double reads_per_second() const { return static_cast<double>(reads) / seconds.median(); }
};

enum class BenchFormat { kMarkdown, kJson, kJsonLines, kCsv };
std::optional<BenchFormat> parse_bench_format(std::string_view name);

/// Prints results as they come, and what frames them.
class BenchReport {
 public:
  BenchReport(BenchFormat format, bool with_perplexity) : format_(format), with_perplexity_(with_perplexity) {}

  void add(const BenchResult& result);
  /// Once, after the last.
  void finish();

 private:
  BenchFormat format_;
  bool with_perplexity_;
  bool first_ = true;
};

}  // namespace nibble::cli
