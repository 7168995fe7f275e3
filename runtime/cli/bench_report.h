// What a benchmark found, as a person or a program reads it. Keys are llama-bench's where they mean the same.
#pragma once

#include <optional>

#include "nibble/engine.h"
#include "runtime/cli/figures.h"
#include "runtime/cli/quality.h"
#include "runtime/cli/result_rows.h"

namespace nibble::cli {

struct BenchResult {
  BenchTest test;
  ModelInfo model;
  Device device;
  int threads;
  bool int8_activations;
  MemoryLedger memory;     ///< measured
  std::uint64_t peak;      ///< resident set of the process, loading included; on a GPU what its buffers take
  double load_seconds;     ///< to open the model, files not in the page cache included
  double first_run_token;  ///< seconds to the first token of the run before those measured
  Samples seconds;         ///< for all of the test's tokens
  Samples first_token;     ///< seconds
  std::uint64_t reads;     ///< bytes of weights and cache; 0 for a prompt, whose speed they do not bound
  double read_bandwidth;   ///< the roofline, in bytes a second
  std::optional<Perplexity> perplexity;

  Samples tokens_per_second() const { return seconds.rates(test.tokens()); }
  double reads_per_second() const { return static_cast<double>(reads) / seconds.median(); }
};

/// Prints results as they come.
class BenchReport {
 public:
  BenchReport(ResultFormat format, bool with_perplexity);

  void add(const BenchResult& result);
  void finish() { rows_.finish(); }

 private:
  bool with_perplexity_;
  ResultRows rows_;
};

}  // namespace nibble::cli
