// Speed of linear layers: layout x compute dtype x rows x shape, beside what the same threads can read from memory.
//
//   linear_bench --benchmark_filter='read|nf4/bf16/m:1/'
//
// Weights are taken in turn from copies that together exceed the caches, so few rows are limited by memory:
// `weights` is the rate at which weight bytes pass, to be compared with `read`. `flops` counts 2 m n k.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>

#include "kernels/cpu/backend.h"
#include "tests/kernels/linear_cases.h"

namespace nibble {
namespace {

constexpr std::size_t kBeyondCaches = std::size_t{160} << 20;

Buffer copy(const Buffer& buffer) {
  Buffer result = Buffer::allocate(buffer.size());
  std::memcpy(result.mutable_as<void>(), buffer.as<void>(), buffer.size());
  return result;
}

template <class T>
Weight copy(const Dense<T>& weight) {
  return Dense<T>{copy(weight.values), weight.n, weight.k};
}
Weight copy(const Int8Row& weight) { return Int8Row{copy(weight.codes), copy(weight.scb), weight.n, weight.k}; }
template <class Scale>
Weight copy(const Lut4<Scale>& weight) {
  Lut4<Scale> result = weight;
  result.codes = copy(weight.codes);
  result.scale.absmax = copy(weight.scale.absmax);
  return result;
}

std::vector<Weight> copies_beyond_caches(const Weight& weight) {
  const std::size_t count = kBeyondCaches / code_bytes(weight) + 1;
  std::vector<Weight> copies;
  for (std::size_t i = 0; i < count; ++i) {
    copies.push_back(std::visit([](const auto& layout) { return copy(layout); }, weight));
  }
  return copies;
}

benchmark::Counter rate(double amount) {
  return benchmark::Counter(amount, benchmark::Counter::kIsIterationInvariantRate);
}

struct Shape {
  int n, k;
};

void run_linear(benchmark::State& state, const WeightCase& weight_case, DType dtype, int m, Shape shape,
                CpuTarget target) {
  CpuBackend backend(0, target);
  const Weight weight = weight_case.make(shape.n, shape.k, 1);
  const std::vector<Weight> weights = copies_beyond_caches(weight);
  const auto rows = static_cast<std::size_t>(m);
  Buffer x = Buffer::allocate(rows * static_cast<std::size_t>(shape.k) * size_of(dtype));
  Buffer y = Buffer::allocate(rows * static_cast<std::size_t>(shape.n) * size_of(dtype));
  std::memset(x.mutable_as<void>(), 0x3c, x.size());
  std::size_t turn = 0;
  for (auto _ : state) {
    backend.linear({weights[turn], {}}, {x.mutable_as<void>(), dtype, m, shape.k},
                   {y.mutable_as<void>(), dtype, m, shape.n});
    turn = (turn + 1) % weights.size();
  }
  state.counters["weights"] = rate(static_cast<double>(code_bytes(weight) + state_bytes(weight)));
  state.counters["flops"] = rate(2.0 * m * shape.n * shape.k);
  state.SetLabel(backend.description());
}

/// Sums memory with the threads the backend would use.
void run_read(benchmark::State& state) {
  ThreadPool pool(0);
  constexpr int kPieces = 64;
  const std::vector<std::uint64_t> memory(kBeyondCaches / sizeof(std::uint64_t), 1);
  for (auto _ : state) {
    pool.run(kPieces, [&](int piece) {
      const std::size_t size = memory.size() / kPieces;
      const auto first = memory.begin() + piece * static_cast<std::ptrdiff_t>(size);
      benchmark::DoNotOptimize(std::accumulate(first, first + static_cast<std::ptrdiff_t>(size), std::uint64_t{0}));
    });
  }
  state.counters["weights"] = rate(static_cast<double>(kBeyondCaches));
}

void register_all() {
  benchmark::RegisterBenchmark("read", run_read)->UseRealTime();
  for (const CpuTarget target : available_targets()) {
    for (const WeightCase& weight_case : kWeightCases) {
      for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
        for (const int m : {1, 4, 16, 256}) {
          for (const Shape shape :
               {Shape{768, 768}, Shape{3072, 768}, Shape{768, 3072}, Shape{2048, 2048}, Shape{4096, 4096}}) {
            const std::string name = std::string(to_string(target)) + "/" + std::string(weight_case.name) + "/" +
                                     std::string(to_string(dtype)) + "/m:" + std::to_string(m) +
                                     "/n:" + std::to_string(shape.n) + "/k:" + std::to_string(shape.k);
            benchmark::RegisterBenchmark(name.c_str(), run_linear, weight_case, dtype, m, shape, target)
                ->UseRealTime()
                ->Unit(benchmark::kMicrosecond);
          }
        }
      }
    }
  }
}

const bool kRegistered = (register_all(), true);

}  // namespace
}  // namespace nibble
