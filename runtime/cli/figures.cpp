#include "runtime/cli/figures.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace nibble::cli {
namespace {

double median_of(std::vector<double> values) {
  std::ranges::sort(values);
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

}  // namespace

StepReads step_reads(std::span<const ParameterReport> parameters, std::uint64_t cache_bytes,
                     std::uint64_t cached_tokens) {
  const bool tied = std::ranges::none_of(
      parameters, [](const ParameterReport& parameter) { return parameter.memory_class == MemoryClass::kHead; });
  StepReads reads{0, 0, cache_bytes / cached_tokens};
  for (const ParameterReport& parameter : parameters) {
    const std::uint64_t bytes = parameter.bytes + parameter.quant_state_bytes;
    const bool table = parameter.memory_class == MemoryClass::kEmbedding;
    if (table) reads.per_sequence += bytes / static_cast<std::uint64_t>(parameter.shape.front());
    if (!table || (tied && parameter.name.ends_with("embed_tokens.weight"))) reads.weights += bytes;
  }
  return reads;
}

std::uint64_t decode_reads(const StepReads& reads, const BenchTest& test) {
  const auto steps = static_cast<std::uint64_t>(test.generated);
  const auto sequences = static_cast<std::uint64_t>(test.sequences);
  const auto held = static_cast<std::uint64_t>(std::max(1, test.depth));
  // A step reads the tokens held and the one it adds: held + 1, held + 2, …
  const std::uint64_t attended = steps * held + steps * (steps + 1) / 2;
  return steps * reads.weights + sequences * (steps * reads.per_sequence + attended * reads.per_token);
}

std::int64_t nanoseconds(double seconds) { return std::llround(seconds * 1e9); }

std::vector<std::int64_t> nanoseconds(const Samples& seconds) {
  std::vector<std::int64_t> values;
  for (const double value : seconds.values()) values.push_back(nanoseconds(value));
  return values;
}

double Samples::median() const { return median_of(values_); }

double Samples::spread() const {
  const double middle = median();
  std::vector<double> distances = values_;
  for (double& value : distances) value = std::abs(value - middle);
  return median_of(std::move(distances));
}

double Samples::mean() const {
  return std::accumulate(values_.begin(), values_.end(), 0.0) / static_cast<double>(values_.size());
}

double Samples::standard_deviation() const {
  if (values_.size() < 2) return 0;
  const double middle = mean();
  double squares = 0;
  for (const double value : values_) squares += (value - middle) * (value - middle);
  return std::sqrt(squares / static_cast<double>(values_.size() - 1));
}

Samples Samples::rates(double amount) const {
  std::vector<double> rates = values_;
  for (double& value : rates) value = amount / value;
  return Samples(std::move(rates));
}

Samples test_seconds(const BenchTest& test, std::span<const GenerateStats> runs) {
  std::vector<double> seconds;
  for (const GenerateStats& run : runs) {
    seconds.push_back(test.generated > 0 ? run.decode_seconds : run.prefill_seconds);
  }
  return Samples(std::move(seconds));
}

Samples first_token_seconds(std::span<const GenerateStats> runs) {
  std::vector<double> seconds;
  for (const GenerateStats& run : runs) seconds.push_back(run.first_token_seconds);
  return Samples(std::move(seconds));
}

}  // namespace nibble::cli
