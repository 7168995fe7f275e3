// The arithmetic of a benchmark: bytes that are read, medians and spreads, rates. Knows no clock and runs no model.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "nibble/inspect.h"
#include "nibble/session.h"

namespace nibble::cli {

/// One measurement: `prompt` tokens read, or `generated` tokens generated (the other is 0), by each of `sequences`
/// sequences that hold `depth` tokens already. A sequence that generates holds at least one.
struct BenchTest {
  int prompt, generated, depth, sequences;

  int tokens() const { return (prompt + generated) * sequences; }
};

/// What one step of decoding reads from memory, in bytes.
struct StepReads {
  std::uint64_t weights;       ///< once a step: linears and their state, the output head, biases and norms
  std::uint64_t per_sequence;  ///< the sequence's row of each table
  std::uint64_t per_token;     ///< keys and values of one token it holds
};

/// `cache_bytes` is a session's cache of `cached_tokens` tokens in all. A token table that is the output head too is
/// read as a whole.
StepReads step_reads(std::span<const ParameterReport> parameters, std::uint64_t cache_bytes,
                     std::uint64_t cached_tokens);

/// Bytes that the `test.generated` steps of a test read: every step attends to one token more.
std::uint64_t decode_reads(const StepReads& reads, const BenchTest& test);

std::int64_t nanoseconds(double seconds);

/// Repeated measurements of one quantity.
class Samples {
 public:
  explicit Samples(std::vector<double> values) : values_(std::move(values)) {}

  const std::vector<double>& values() const { return values_; }
  double median() const;
  /// The median distance from the median, which one disturbed run does not move.
  double spread() const;
  double mean() const;
  double standard_deviation() const;  ///< of the sample, n - 1; 0 of one value

  /// `amount` divided by each value: of seconds the rates.
  Samples rates(double amount) const;

 private:
  std::vector<double> values_;
};

std::vector<std::int64_t> nanoseconds(const Samples& seconds);

/// The seconds each run took for what the test measures, and the seconds to its first token.
Samples test_seconds(const BenchTest& test, std::span<const GenerateStats> runs);
Samples first_token_seconds(std::span<const GenerateStats> runs);

}  // namespace nibble::cli
