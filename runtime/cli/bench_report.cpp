#include "runtime/cli/bench_report.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/cli/host.h"
#include "runtime/cli/json.h"
#include "runtime/cli/render.h"

namespace nibble::cli {
namespace {

/// "pp512", "tg128 @ d512"
std::string test_name(const BenchTest& test) {
  const std::string name = test.generated > 0 ? fmt::format("tg{}", test.generated) : fmt::format("pp{}", test.prompt);
  return test.depth > 0 ? fmt::format("{} @ d{}", name, test.depth) : name;
}

Json json_of(const BenchResult& r) {
  const Samples speed = r.tokens_per_second();
  const bool generates = r.test.generated > 0;
  return {{"version", version()},
          {"cpu_info", cpu_name()},
          {"backends", backend_name(r.device)},
          {"model_filename", r.model.name},
          {"model_type", r.model.architecture},
          {"model_size", r.memory.weights()},
          {"model_n_params", r.memory.parameters},
          {"scheme", to_string(r.model.scheme)},
          {"dtype", to_string(r.model.compute_dtype)},
          {"int8_activations", r.int8_activations},
          {"n_threads", r.threads},
          {"n_sequences", r.test.sequences},
          {"n_prompt", r.test.prompt},
          {"n_gen", r.test.generated},
          {"n_depth", r.test.depth},
          {"test_time", utc_time()},
          {"avg_ns", nanoseconds(r.seconds.mean())},
          {"stddev_ns", nanoseconds(r.seconds.standard_deviation())},
          {"avg_ts", speed.mean()},
          {"stddev_ts", speed.standard_deviation()},
          {"median_ts", speed.median()},
          {"spread_ts", speed.spread()},
          {"load_ns", nanoseconds(r.load_seconds)},
          {"first_ttft_ns", generates ? Json() : Json(nanoseconds(r.first_run_token))},
          {"ttft_ns", generates ? Json() : Json(nanoseconds(r.first_token.median()))},
          {"huggingface_size", r.memory.huggingface},
          {"memory", ledger_json(r.memory)},
          {"peak_bytes", r.peak},
          {"read_bytes", generates ? Json(r.reads) : Json()},
          {"read_bytes_per_second", generates ? Json(r.reads_per_second()) : Json()},
          {"roofline_bytes_per_second", r.read_bandwidth},
          {"roofline_share", generates ? Json(r.reads_per_second() / r.read_bandwidth) : Json()},
          {"perplexity", r.perplexity ? Json(r.perplexity->value) : Json()},
          {"perplexity_error", r.perplexity ? Json(r.perplexity->error) : Json()},
          {"samples_ns", nanoseconds(r.seconds)},
          {"samples_ts", speed.values()}};
}

struct Column : ResultColumn {
  std::string (*cell)(const BenchResult& r);
};

constexpr Column kColumns[] = {
    {{"model", 20, true}, [](const BenchResult& r) { return r.model.name; }},
    {{"size, MB", 8, false}, [](const BenchResult& r) { return megabytes(r.memory.weights()); }},
    {{"HF says", 8, false}, [](const BenchResult& r) { return megabytes(r.memory.huggingface); }},
    {{"params", 9, false},
     [](const BenchResult& r) { return fmt::format("{:.2f} M", static_cast<double>(r.memory.parameters) / 1e6); }},
    {{"backend", 7, true}, [](const BenchResult& r) { return backend_name(r.device); }},
    {{"threads", 7, false}, [](const BenchResult& r) { return std::to_string(r.threads); }},
    {{"scheme", 11, true},
     [](const BenchResult& r) { return std::string(to_string(r.model.scheme)) + (r.int8_activations ? " A8" : ""); }},
    {{"dtype", 5, true}, [](const BenchResult& r) { return std::string(to_string(r.model.compute_dtype)); }},
    {{"batch", 5, false}, [](const BenchResult& r) { return std::to_string(r.test.sequences); }},
    {{"test", 14, false}, [](const BenchResult& r) { return test_name(r.test); }},
    {{"t/s", 17, false},
     [](const BenchResult& r) {
       const Samples speed = r.tokens_per_second();
       return fmt::format("{:.2f} ± {:.2f}", speed.median(), speed.spread());
     }},
    {{"load, s", 7, false}, [](const BenchResult& r) { return fmt::format("{:.2f}", r.load_seconds); }},
    {{"TTFT, ms", 8, false},
     [](const BenchResult& r) {
       return r.test.prompt > 0 ? fmt::format("{:.1f}", r.first_token.median() * 1e3) : std::string();
     }},
    {{"GB/s", 7, false},
     [](const BenchResult& r) {
       return r.test.generated > 0 ? fmt::format("{:.2f}", r.reads_per_second() / 1e9) : std::string();
     }},
    {{"% roof", 6, false},
     [](const BenchResult& r) {
       return r.test.generated > 0 ? fmt::format("{:.1f}", 100 * r.reads_per_second() / r.read_bandwidth)
                                   : std::string();
     }},
    {{"peak, MB", 8, false}, [](const BenchResult& r) { return megabytes(r.peak); }},
    {{"perplexity", 15, false},
     [](const BenchResult& r) {
       return r.perplexity ? fmt::format("{:.3f} ± {:.3f}", r.perplexity->value, r.perplexity->error) : std::string();
     }},
};

/// The perplexity is the last column.
std::span<const Column> columns(bool with_perplexity) {
  return std::span(kColumns).first(std::size(kColumns) - (with_perplexity ? 0 : 1));
}

}  // namespace

BenchReport::BenchReport(ResultFormat format, bool with_perplexity)
    : with_perplexity_(with_perplexity),
      rows_(format, {columns(with_perplexity).begin(), columns(with_perplexity).end()}) {}

void BenchReport::add(const BenchResult& result) {
  std::vector<std::string> cells;
  for (const Column& column : columns(with_perplexity_)) cells.push_back(column.cell(result));
  rows_.add(cells, json_of(result));
}

}  // namespace nibble::cli
