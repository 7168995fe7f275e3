// Speed of linear layers: instruction set x threads x layout x compute dtype x rows x shape, beside what the same
// threads can read from memory; and the same on a GPU.
//
//   linear_bench --benchmark_filter='avx512/threads:1/nf4/bf16/m:1/'
//   linear_bench --benchmark_filter='cuda/nf4/fp16/'
//
// Rows are one segment, as when a prompt is read. Weights are taken in turn from copies that together exceed the
// caches, so few rows are limited by memory. `weights` is the rate at which weight bytes pass and `read` the rate at
// which the same threads read memory; `share` is their ratio. `flops` counts 2 m n k. Rates are those of the fastest
// call, which other work on the machine disturbs least. On a GPU `each` is the time of one call of several that follow
// each other, as in a recorded step; `sequences` are rows of as many segments.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <map>

#include "kernels/cpu/backend.h"
#include "kernels/roofline.h"
#include "tests/devices.h"
#include "tests/kernels/matrix.h"

namespace nibble {
namespace {

constexpr std::size_t kBeyondCaches = std::size_t{640} << 20;

Buffer copy(const Buffer& buffer) {
  Buffer result = Buffer::allocate_in_huge_pages(buffer.size());
  std::memcpy(result.mutable_as<void>(), buffer.as<void>(), buffer.size());
  return result;
}

template <class T>
Weight copy(const Dense<T>& weight) {
  return Dense<T>{copy(weight.values), weight.n, weight.k};
}
template <std::derived_from<Int8Row> Int8>
Weight copy(const Int8& weight) {
  return Int8{Int8Row{copy(weight.codes), copy(weight.scb), weight.n, weight.k}};
}
template <class Scale>
Weight copy(const Lut4<Scale>& weight) {
  Lut4<Scale> result = weight;
  result.codes = copy(weight.codes);
  result.scale.absmax = copy(weight.scale.absmax);
  return result;
}

template <class Zero>
Weight copy(const Int4Group<Zero>& weight) {
  Int4Group<Zero> result = weight;
  result.codes = copy(weight.codes);
  result.scales = copy(weight.scales);
  return result;
}

struct Shape {
  int n, k;
  bool operator==(const Shape&) const = default;
};

/// Equal weights that together exceed the caches; benchmarks in a row share them.
const std::vector<Weight>& copies_beyond_caches(const WeightCase& weight_case, Shape shape) {
  static std::vector<Weight> copies;
  static std::string_view name;
  static Shape made;
  if (name == weight_case.name && made == shape) return copies;
  copies.clear();
  const Weight weight = weight_case.make(shape.n, shape.k, 1);
  const std::size_t count = kBeyondCaches / code_bytes(weight) + 1;
  for (std::size_t i = 0; i < count; ++i) {
    copies.push_back(std::visit([](const auto& layout) { return copy(layout); }, weight));
  }
  name = weight_case.name;
  made = shape;
  return copies;
}

/// The least of the seconds that calls take.
class Fastest {
 public:
  template <class F>
  void time(F&& f) {
    const auto begin = std::chrono::steady_clock::now();
    f();
    seconds_ = std::min(seconds_, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  double rate(double amount) const { return amount / seconds_; }

 private:
  double seconds_ = 1e9;
};

/// Bytes a second that so many threads read.
double read_rate(int threads) {
  static std::map<int, double> known;
  const auto [found, is_new] = known.try_emplace(threads);
  if (is_new) found->second = cpu_read_bandwidth(threads);
  return found->second;
}

void run_linear(benchmark::State& state, const WeightCase& weight_case, DType dtype, int m, Shape shape,
                CpuTarget target, int threads) {
  CpuBackend backend(threads, target);
  const std::vector<Weight>& weights = copies_beyond_caches(weight_case, shape);
  const auto rows = static_cast<std::size_t>(m);
  Buffer x = Buffer::allocate(rows * static_cast<std::size_t>(shape.k) * size_of(dtype));
  Buffer y = Buffer::allocate(rows * static_cast<std::size_t>(shape.n) * size_of(dtype));
  std::memset(x.mutable_as<void>(), 0x3c, x.size());
  begin(backend, {m});
  std::size_t turn = 0;
  Fastest fastest;
  for (auto _ : state) {
    const Linear linear{weights[turn], {}};
    fastest.time([&] {
      project(backend, {x.mutable_as<void>(), dtype, m, shape.k}, {linear, {y.mutable_as<void>(), dtype, m, shape.n}});
    });
    turn = (turn + 1) % weights.size();
  }
  const double weight_rate = fastest.rate(static_cast<double>(code_bytes(weights[0]) + state_bytes(weights[0])));
  state.counters["weights"] = weight_rate;
  state.counters["flops"] = fastest.rate(2.0 * m * shape.n * shape.k);
  state.counters["read"] = read_rate(threads);
  state.counters["share"] = weight_rate / read_rate(threads);
  state.SetLabel(backend.description());
}

/// Calls that follow each other, of a weight of its own each.
constexpr int kCalls = 24;

void run_on_gpu(benchmark::State& state, const WeightCase& weight_case, DType dtype, int m, bool sequences,
                Shape shape) {
  const auto backend = make_cuda_backend();
  const Weight weight = weight_case.make(shape.n, shape.k, 1);
  std::vector<Linear> linears;
  for (int i = 0; i < kCalls; ++i) linears.push_back({backend->prepare(weight), {}});
  const Matrix x(*backend, dtype, m, shape.k, 2), y(*backend, dtype, m, shape.n);
  begin(*backend, segments_of(sequences ? std::vector<int>(index(m), 1) : std::vector{m}));
  const std::function<void()> calls = [&] {
    for (const Linear& linear : linears) project(*backend, x.tensor(), {linear, y.tensor()});
  };
  for (int i = 0; i < 2; ++i) backend->repeat(1, calls);  // the second records them
  backend->wait();
  for (auto _ : state) {
    backend->repeat(1, calls);
    backend->wait();
  }
  using benchmark::Counter;
  state.counters["each"] = Counter(kCalls, Counter::kIsIterationInvariantRate | Counter::kInvert);
  state.SetLabel(backend->description());
}

void register_on_gpu() {
  for (const WeightCase& weight_case : kWeightCases) {
    for (const DType dtype : {DType::kF16, DType::kBF16}) {
      for (const Shape shape : {Shape{4096, 4096}, Shape{16384, 4096}, Shape{4096, 16384}}) {
        for (const bool sequences : {false, true}) {
          for (const int m : {1, 2, 8, 16, 32, 64, 128, 512, 2048}) {
            if (sequences && (m <= 16 || m > 128)) continue;
            const std::string name = "cuda/" + std::string(weight_case.name) + "/" + std::string(to_string(dtype)) +
                                     (sequences ? "/sequences:" : "/m:") + std::to_string(m) +
                                     "/n:" + std::to_string(shape.n) + "/k:" + std::to_string(shape.k);
            benchmark::RegisterBenchmark(name.c_str(), run_on_gpu, weight_case, dtype, m, sequences, shape)
                ->UseRealTime()
                ->Unit(benchmark::kMicrosecond);
          }
        }
      }
    }
  }
}

void register_all() {
  if (has_cuda()) register_on_gpu();
  for (const CpuTarget target : available_targets()) {
    for (const int threads : {1, 2}) {
      for (const WeightCase& weight_case : kWeightCases) {
        for (const Shape shape : {Shape{768, 768}, Shape{3072, 768}, Shape{768, 3072}, Shape{2048, 2048},
                                  Shape{4096, 4096}, Shape{4096, 16384}}) {
          for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
            for (const int m : {1, 2, 4, 6, 8, 12, 16, 24, 32, 128, 256, 512}) {
              const std::string name = std::string(to_string(target)) + "/threads:" + std::to_string(threads) + "/" +
                                       std::string(weight_case.name) + "/" + std::string(to_string(dtype)) +
                                       "/m:" + std::to_string(m) + "/n:" + std::to_string(shape.n) +
                                       "/k:" + std::to_string(shape.k);
              benchmark::RegisterBenchmark(name.c_str(), run_linear, weight_case, dtype, m, shape, target, threads)
                  ->UseRealTime()
                  ->Unit(benchmark::kMicrosecond);
            }
          }
        }
      }
    }
  }
}

const bool kRegistered = (register_all(), true);

}  // namespace
}  // namespace nibble
