// Speed of choosing tokens: instruction set or GPU x compute dtype x rows x filters.
//
//   sampling_bench --benchmark_filter='avx512/fp16/rows:1/'
//
// Rows have the 50,272 logits of OPT, of normal distribution, and one that stands out. `each` is the time of one call
// of several that follow each other, as in a recorded step, in which nobody waits for a token.
#include <benchmark/benchmark.h>

#include <array>
#include <functional>
#include <memory>
#include <numeric>

#include "kernels/cpu/backend.h"
#include "kernels/dispatch.h"
#include "nibble/error.h"
#include "tests/kernels/linear_cases.h"

namespace nibble {
namespace {

constexpr int kVocabulary = 50272;
constexpr int kCalls = 20;

struct Filters {
  const char* name;
  Choice choice;
};

const std::array<Filters, 7> kFilters = {{
    {"greedy", {}},
    {"temperature", {.temperature = 0.8F}},
    {"top-k", {.temperature = 0.8F, .top_k = 50}},
    {"top-p", {.temperature = 0.8F, .top_p = 0.9F}},
    {"top-k-and-top-p", {.temperature = 0.8F, .top_k = 50, .top_p = 0.9F}},
    {"min-p", {.temperature = 0.8F, .min_p = 0.05F}},
    {"all", {.temperature = 0.8F, .top_k = 50, .top_p = 0.9F, .min_p = 0.05F, .repetition_penalty = 1.1F}},
}};

using MakeBackend = std::function<std::unique_ptr<Backend>()>;

void run_choose(benchmark::State& state, const MakeBackend& make, DType dtype, int rows, const Filters& filters) {
  const auto backend = make();
  const auto count = static_cast<std::size_t>(rows);
  std::vector<float> values = random_values(count * kVocabulary, 1, 2.5F);
  for (std::size_t row = 0; row < count; ++row) values[row * kVocabulary + 31 * row] = 12;
  Buffer logits =
      with_dtype(dtype, [&](auto tag) { return backend->upload(buffer_of<typename decltype(tag)::type>(values)); });

  std::vector<int> seen(500), ids(count), outputs(count);
  for (std::size_t i = 0; i < seen.size(); ++i) seen[i] = static_cast<int>(i * 97 % kVocabulary);
  std::iota(outputs.begin(), outputs.end(), 0);
  std::vector<Segment> segments;
  std::vector<Choice> choices;
  for (int row = 0; row < rows; ++row) {
    segments.push_back({row, row, 1, 0});
    choices.push_back(filters.choice);
    choices.back().random = 0x9e3779b97f4a7c15ULL * (static_cast<std::uint64_t>(row) + 1);
    if (filters.choice.repetition_penalty != 1.0F) choices.back().seen = seen;
  }
  backend->begin({ids, ids, segments, outputs, choices});
  const std::function<void()> calls = [&] {
    for (int i = 0; i < kCalls; ++i) backend->choose({logits.mutable_as<void>(), dtype, rows, kVocabulary});
  };
  for (auto _ : state) {
    backend->repeat(0, calls);
    benchmark::DoNotOptimize(backend->chosen(0).front());
  }
  using benchmark::Counter;
  state.counters["each"] = Counter(kCalls, Counter::kIsIterationInvariantRate | Counter::kInvert);
  state.SetLabel(backend->description());
}

void register_on(const std::string& name, const MakeBackend& make) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const int rows : {1, 4, 16, 64}) {
      for (const Filters& filters : kFilters) {
        const std::string full =
            name + "/" + std::string(to_string(dtype)) + "/rows:" + std::to_string(rows) + "/" + filters.name;
        benchmark::RegisterBenchmark(full.c_str(), run_choose, make, dtype, rows, filters)
            ->UseRealTime()
            ->Unit(benchmark::kMicrosecond);
      }
    }
  }
}

bool register_all() {
  for (const CpuTarget target : available_targets()) {
    register_on(std::string(to_string(target)), [target] { return std::make_unique<CpuBackend>(1, target); });
  }
  try {
    make_cuda_backend();
    register_on("cuda", [] { return make_cuda_backend(); });
  } catch (const Error&) {
    // No GPU, or a build without CUDA.
  }
  return true;
}

const bool kRegistered = register_all();

}  // namespace
}  // namespace nibble
