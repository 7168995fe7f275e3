// What a GPU can do, as the denominators of every other figure: memory and L2 streams, barriers, the gaps between the
// kernels of a graph, and the rates of decoding and multiplying.
//
//   device_bench --json roofline.json --commit $(git rev-parse HEAD)
//
// Every figure is the median of repeats, on random data: constants run faster, because they switch fewer transistors.
#include <cooperative_groups.h>
#include <cublasLt.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

void check(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}

void check(cublasStatus_t status) {
  if (status != CUBLAS_STATUS_SUCCESS) throw std::runtime_error(cublasLtGetStatusString(status));
}

/// Device memory, freed at the end.
class Memory {
 public:
  explicit Memory(std::size_t bytes) : bytes_(bytes) { check(cudaMalloc(&data_, bytes)); }
  ~Memory() { cudaFree(data_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  std::size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  std::size_t bytes_;
};

/// One device, a stream on it, and what was measured.
class Bench {
 public:
  Bench() {
    check(cudaStreamCreate(&stream_));
    check(cudaEventCreate(&begin_));
    check(cudaEventCreate(&end_));
    check(cudaGetDeviceProperties(&properties_, 0));
  }

  cudaStream_t stream() const { return stream_; }
  int processors() const { return properties_.multiProcessorCount; }
  const cudaDeviceProp& properties() const { return properties_; }

  /// Seconds that `work` takes on the stream: each of `repeats` runs, after two that do not count.
  std::vector<double> times(int repeats, const std::function<void()>& work) {
    std::vector<double> seconds;
    for (int i = 0; i < repeats + 2; ++i) {
      check(cudaEventRecord(begin_, stream_));
      work();
      check(cudaEventRecord(end_, stream_));
      check(cudaEventSynchronize(end_));
      check(cudaGetLastError());
      float milliseconds = 0;
      check(cudaEventElapsedTime(&milliseconds, begin_, end_));
      if (i >= 2) seconds.push_back(milliseconds * 1e-3);
    }
    return seconds;
  }

  /// Notes `scale` / seconds, where that is a rate of so much a second.
  void add_rate(const std::string& what, const std::string& unit, double amount, const std::vector<double>& seconds) {
    std::vector<double> rates;
    for (const double s : seconds) rates.push_back(amount / s);
    add(what, unit, std::move(rates));
  }
  void add(const std::string& what, const std::string& unit, std::vector<double> values) {
    std::ranges::sort(values);
    const double median = values[values.size() / 2];
    const double low = values[values.size() / 10], high = values[values.size() - 1 - values.size() / 10];
    std::printf("%-52s %12.3f %-9s (%.3f to %.3f)\n", what.c_str(), median, unit.c_str(), low, high);
    std::fflush(stdout);
    results_.push_back({{"what", what}, {"unit", unit}, {"median", median}, {"p10", low}, {"p90", high}});
  }
  const nlohmann::json& results() const { return results_; }

 private:
  cudaStream_t stream_{};
  cudaEvent_t begin_{}, end_{};
  cudaDeviceProp properties_{};
  nlohmann::json results_ = nlohmann::json::array();
};

/// What the stream is given by `work`, as a graph that can be launched again and again.
class Graph {
 public:
  Graph(cudaStream_t stream, const std::function<void()>& work) : stream_(stream) {
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    work();
    cudaGraph_t graph{};
    check(cudaStreamEndCapture(stream, &graph));
    check(cudaGraphInstantiate(&graph_, graph, 0));
    check(cudaGraphDestroy(graph));
  }
  ~Graph() { cudaGraphExecDestroy(graph_); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  void launch() const { check(cudaGraphLaunch(graph_, stream_)); }

 private:
  cudaStream_t stream_;
  cudaGraphExec_t graph_{};
};

__device__ std::uint32_t hashed(std::uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7feb352dU;
  x = (x ^ (x >> 15)) * 0x846ca68bU;
  return x ^ (x >> 16);
}

/// Random bits; with `mask` and `base`, random numbers of one exponent in each half of a word.
__global__ void fill(std::uint32_t* words, std::size_t count, std::uint32_t mask, std::uint32_t base) {
  const std::size_t stride = static_cast<std::size_t>(gridDim.x) * blockDim.x;
  for (std::size_t i = static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    words[i] = (hashed(static_cast<std::uint32_t>(i)) & mask) | base;
  }
}

void fill_random(const Bench& bench, const Memory& memory, std::uint32_t mask = ~0U, std::uint32_t base = 0) {
  fill<<<bench.processors() * 8, 256, 0, bench.stream()>>>(memory.as<std::uint32_t>(), memory.bytes() / 4, mask, base);
  check(cudaGetLastError());
}

/// Numbers from 1 to 2, or from -2 to -1, in fp16: nothing overflows however often they are added up in fp32.
void fill_half(const Bench& bench, const Memory& memory) { fill_random(bench, memory, 0x83ff83ffU, 0x3c003c00U); }

// --- Streams

constexpr int kStreamThreads = 512;
constexpr int kLoads = 4;  // of 16 bytes, in flight in every thread

__device__ uint4 load_once(const uint4* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}

/// Reads everything once. Writes only if the sum of all bits is a number that it never is, as the compiler cannot know.
__global__ void __launch_bounds__(kStreamThreads) read_all(const uint4* data, std::size_t count, std::uint32_t* never) {
  const std::size_t threads = static_cast<std::size_t>(gridDim.x) * kStreamThreads;
  std::uint32_t sum = 0;
  for (std::size_t i = static_cast<std::size_t>(blockIdx.x) * kStreamThreads + threadIdx.x; i < count;
       i += kLoads * threads) {
    uint4 v[kLoads];
#pragma unroll
    for (int j = 0; j < kLoads; ++j) v[j] = load_once(data + min(i + j * threads, count - 1));
#pragma unroll
    for (int j = 0; j < kLoads; ++j) sum ^= (v[j].x ^ v[j].y) ^ (v[j].z ^ v[j].w);
  }
  if (sum == 0x5eed1e55U && never[0] != 0) never[1] = sum;
}

__global__ void __launch_bounds__(kStreamThreads) copy_all(const uint4* data, std::size_t count, uint4* to) {
  const std::size_t threads = static_cast<std::size_t>(gridDim.x) * kStreamThreads;
  for (std::size_t i = static_cast<std::size_t>(blockIdx.x) * kStreamThreads + threadIdx.x; i < count;
       i += kLoads * threads) {
    uint4 v[kLoads];
#pragma unroll
    for (int j = 0; j < kLoads; ++j) v[j] = load_once(data + min(i + j * threads, count - 1));
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      if (i + j * threads < count) to[i + j * threads] = v[j];
    }
  }
}

void measure_streams(Bench& bench) {
  constexpr std::size_t kGiB = std::size_t{1} << 30;
  const Memory data(4 * kGiB), never(64);
  fill_random(bench, data);
  check(cudaMemsetAsync(never.as<void>(), 0, never.bytes(), bench.stream()));
  const int blocks = bench.processors() * 8;
  const auto read = [&](std::size_t bytes) {
    read_all<<<blocks, kStreamThreads, 0, bench.stream()>>>(data.as<uint4>(), bytes / sizeof(uint4),
                                                            never.as<std::uint32_t>());
  };
  for (const double gib : {0.5, 1.0, 2.0, 4.0}) {
    const auto bytes = static_cast<std::size_t>(gib * static_cast<double>(kGiB));
    const auto seconds = bench.times(21, [&] { read(bytes); });
    char what[64];
    std::snprintf(what, sizeof what, "read stream, %.1f GiB", gib);
    bench.add_rate(what, "TB/s", static_cast<double>(bytes) * 1e-12, seconds);
  }
  const auto seconds = bench.times(21, [&] {
    copy_all<<<blocks, kStreamThreads, 0, bench.stream()>>>(data.as<uint4>(), kGiB / sizeof(uint4),
                                                            data.as<uint4>() + 2 * kGiB / sizeof(uint4));
  });
  bench.add_rate("copy, 1 GiB, read + write", "TB/s", 2e-12 * kGiB, seconds);

  // What stays in L2 is read in a time that a launch from the host would double: fifty reads are one graph.
  constexpr int kReads = 50;
  for (const std::size_t mib : {16, 32, 48}) {
    const std::size_t bytes = mib << 20;
    const Graph graph(bench.stream(), [&] {
      for (int i = 0; i < kReads; ++i) read(bytes);
    });
    bench.add_rate("L2 stream, " + std::to_string(mib) + " MiB", "TB/s", static_cast<double>(bytes) * kReads * 1e-12,
                   bench.times(21, [&] { graph.launch(); }));
  }
}

// --- Barriers

constexpr int kRounds = 2000;

__global__ void cooperative_barrier(int rounds) {
  const auto grid = cooperative_groups::this_grid();
  for (int i = 0; i < rounds; ++i) grid.sync();
}

/// Counts arrivals up; a round is over when all blocks have come so many times.
__global__ void counter_barrier(unsigned* counter, int rounds) {
  for (int i = 1; i <= rounds; ++i) {
    __syncthreads();
    if (threadIdx.x == 0) {
      const unsigned target = static_cast<unsigned>(i) * gridDim.x;
      asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
      unsigned seen = 0;
      do {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
      } while (seen < target);
    }
    __syncthreads();
  }
}

void measure_barriers(Bench& bench) {
  const Memory counter(4);
  unsigned* const address = counter.as<unsigned>();
  for (const int threads : {128, 512, 1024}) {
    const auto microseconds = [&](const void* kernel, void** arguments) {
      std::vector<double> seconds = bench.times(11, [&] {
        check(cudaMemsetAsync(address, 0, 4, bench.stream()));
        check(
            cudaLaunchCooperativeKernel(kernel, dim3(bench.processors()), dim3(threads), arguments, 0, bench.stream()));
      });
      for (double& s : seconds) s *= 1e6 / kRounds;
      return seconds;
    };
    const std::string blocks =
        ", " + std::to_string(bench.processors()) + " blocks of " + std::to_string(threads) + " threads";
    int rounds = kRounds;
    void* cooperative[] = {&rounds};
    bench.add("grid barrier, cooperative" + blocks, "us",
              microseconds(reinterpret_cast<const void*>(cooperative_barrier), cooperative));
    auto* place = address;
    void* counted[] = {&place, &rounds};
    bench.add("grid barrier, counter" + blocks, "us",
              microseconds(reinterpret_cast<const void*>(counter_barrier), counted));
  }
}

// --- Graphs

__global__ void empty() {}

__global__ void empty_overlapped() {
  asm volatile("griddepcontrol.launch_dependents;");
  asm volatile("griddepcontrol.wait;" ::: "memory");
}

void measure_graph_gaps(Bench& bench) {
  constexpr int kNodes = 1000;
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(bench.processors());
  config.blockDim = dim3(256);
  config.stream = bench.stream();
  const auto gap = [&](void (*kernel)()) {
    const Graph graph(bench.stream(), [&] {
      for (int i = 0; i < kNodes; ++i) check(cudaLaunchKernelEx(&config, kernel));
    });
    std::vector<double> seconds = bench.times(21, [&] { graph.launch(); });
    for (double& s : seconds) s *= 1e6 / kNodes;
    return seconds;
  };
  bench.add("graph, node to node", "us", gap(empty));
  config.attrs = &overlap;
  config.numAttrs = 1;
  bench.add("graph, node to node, programmatic dependent launch", "us", gap(empty_overlapped));
}

// --- Decoding through a table in shared memory

constexpr int kTableEntries = 256;
constexpr int kEntryBytes = 256;  // a byte moved up by eight bits is the entry's place
constexpr int kDecodeThreads = 512;
constexpr int kDecodeSteps = 4096;

/// Codes of two weights become two weights: one PRMT makes the address, one LDS fetches the pair. Every lane has a
/// column of its own, so that no two lanes meet in a bank.
__global__ void __launch_bounds__(kDecodeThreads)
    decode_pairs(const uint4* codes, const std::uint32_t* levels, std::uint32_t* never) {
  extern __shared__ __align__(256) char table[];
  for (int i = threadIdx.x; i < kTableEntries * 32; i += kDecodeThreads) {
    *reinterpret_cast<std::uint32_t*>(table + i / 32 * kEntryBytes + i % 32 * 4) = levels[i / 32];
  }
  __syncthreads();
  const std::uint32_t column = threadIdx.x % 32 * 4;
  const uint4 loaded = codes[blockIdx.x * kDecodeThreads + threadIdx.x];
  std::uint32_t words[4] = {loaded.x, loaded.y, loaded.z, loaded.w};
  std::uint32_t sum = 0;
#pragma unroll 1
  for (int step = 0; step < kDecodeSteps; ++step) {
#pragma unroll
    for (std::uint32_t& word : words) {
      std::uint32_t pairs[4];
      pairs[0] = *reinterpret_cast<const std::uint32_t*>(table + __byte_perm(word, column, 0x7704));
      pairs[1] = *reinterpret_cast<const std::uint32_t*>(table + __byte_perm(word, column, 0x7714));
      pairs[2] = *reinterpret_cast<const std::uint32_t*>(table + __byte_perm(word, column, 0x7724));
      pairs[3] = *reinterpret_cast<const std::uint32_t*>(table + __byte_perm(word, column, 0x7734));
      sum ^= (pairs[0] ^ pairs[1]) ^ (pairs[2] ^ pairs[3]);
      word += 0x9e3779b9U;
    }
  }
  if (sum == 0x5eed1e55U && never[0] != 0) never[1] = sum;
}

void measure_decoding(Bench& bench) {
  const int blocks = bench.processors() * 2;
  const Memory codes(static_cast<std::size_t>(blocks) * kDecodeThreads * sizeof(uint4));
  const Memory levels(kTableEntries * 4), never(64);
  fill_random(bench, codes);
  fill_half(bench, levels);
  check(cudaMemsetAsync(never.as<void>(), 0, never.bytes(), bench.stream()));
  constexpr int kTableBytes = kTableEntries * kEntryBytes;
  check(cudaFuncSetAttribute(decode_pairs, cudaFuncAttributeMaxDynamicSharedMemorySize, kTableBytes));
  const auto seconds = bench.times(21, [&] {
    decode_pairs<<<blocks, kDecodeThreads, kTableBytes, bench.stream()>>>(codes.as<uint4>(), levels.as<std::uint32_t>(),
                                                                          never.as<std::uint32_t>());
  });
  constexpr double kWeightsAThread = 32.0 * kDecodeSteps;
  bench.add_rate("decode, pair table in shared memory", "Tweight/s", blocks * kDecodeThreads * kWeightsAThread * 1e-12,
                 seconds);
}

// --- Multiplying

constexpr int kMmaThreads = 256;
constexpr int kMmaChains = 8;  // sums that a warp has in the making
constexpr int kMmaSteps = 4096;

__global__ void __launch_bounds__(kMmaThreads) multiply(const uint4* data, float* never) {
  const uint4 a = data[2 * threadIdx.x], b = data[2 * threadIdx.x + 1];
  float sums[kMmaChains][4] = {};
#pragma unroll 1
  for (int step = 0; step < kMmaSteps; ++step) {
#pragma unroll
    for (int i = 0; i < kMmaChains; ++i) {
      float* const d = sums[i];
      asm volatile(
          "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
          "{%0, %1, %2, %3};"
          : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
          : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(i % 2 == 0 ? b.x : b.z), "r"(i % 2 == 0 ? b.y : b.w));
    }
  }
  float sum = 0;
  for (const auto& chain : sums) sum += (chain[0] + chain[1]) + (chain[2] + chain[3]);
  if (sum == 1.0F && never[0] != 0) never[1] = sum;
}

void measure_mma(Bench& bench) {
  const Memory data(2 * kMmaThreads * sizeof(uint4)), never(64);
  fill_half(bench, data);
  check(cudaMemsetAsync(never.as<void>(), 0, never.bytes(), bench.stream()));
  const int blocks = bench.processors() * 2;
  const auto seconds = bench.times(
      21, [&] { multiply<<<blocks, kMmaThreads, 0, bench.stream()>>>(data.as<uint4>(), never.as<float>()); });
  const double flops = 2.0 * 16 * 8 * 16 * kMmaChains * kMmaSteps * (kMmaThreads / 32) * blocks;
  bench.add_rate("mma.sync m16n8k16, fp16, sums in fp32", "TFLOP/s", flops * 1e-12, seconds);
}

/// y = x w^T of square matrices, by the algorithm that cuBLASLt's heuristic names first.
void measure_cublas(Bench& bench) {
  constexpr int kSize = 8192;
  constexpr std::size_t kElements = std::size_t{kSize} * kSize;
  const Memory w(kElements * 2), x(kElements * 2), y(kElements * 2), workspace(std::size_t{64} << 20);
  fill_half(bench, w);
  fill_half(bench, x);

  cublasLtHandle_t handle{};
  check(cublasLtCreate(&handle));
  for (const auto& [type, name] : {std::pair{CUDA_R_16F, "fp16"}, std::pair{CUDA_R_16BF, "bf16"}}) {
    cublasLtMatmulDesc_t operation{};
    check(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    const cublasOperation_t transposed = CUBLAS_OP_T;
    check(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed));
    cublasLtMatrixLayout_t layout{};
    check(cublasLtMatrixLayoutCreate(&layout, type, kSize, kSize, kSize));
    cublasLtMatmulPreference_t preference{};
    check(cublasLtMatmulPreferenceCreate(&preference));
    const std::size_t bytes = workspace.bytes();
    check(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes,
                                               sizeof bytes));
    cublasLtMatmulHeuristicResult_t first{};
    int found = 0;
    check(cublasLtMatmulAlgoGetHeuristic(handle, operation, layout, layout, layout, layout, preference, 1, &first,
                                         &found));
    if (found == 0) throw std::runtime_error("cuBLASLt: expected an algorithm for 8192^3, found none");
    const float one = 1, zero = 0;
    const auto seconds = bench.times(21, [&] {
      check(cublasLtMatmul(handle, operation, &one, w.as<void>(), layout, x.as<void>(), layout, &zero, y.as<void>(),
                           layout, y.as<void>(), layout, &first.algo, workspace.as<void>(), bytes, bench.stream()));
    });
    bench.add_rate(std::string("cuBLASLt, 8192^3, ") + name, "TFLOP/s", 2.0 * kSize * kSize * kSize * 1e-12, seconds);
    check(cublasLtMatmulPreferenceDestroy(preference));
    check(cublasLtMatrixLayoutDestroy(layout));
    check(cublasLtMatmulDescDestroy(operation));
  }
  check(cublasLtDestroy(handle));
}

// --- Clocks

/// Cycles and nanoseconds that pass in about a millisecond.
__global__ void tick(unsigned long long* passed) {
  unsigned long long begin = 0, now = 0;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
  const long long cycles = clock64();
  do {
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  } while (now - begin < 1'000'000);
  passed[0] = static_cast<unsigned long long>(clock64() - cycles);
  passed[1] = now - begin;
}

void measure_clock(Bench& bench) {
  const Memory passed(16);
  std::vector<double> gigahertz;
  bench.times(11, [&] {
    tick<<<1, 1, 0, bench.stream()>>>(passed.as<unsigned long long>());
    unsigned long long values[2];
    check(cudaMemcpyAsync(values, passed.as<void>(), sizeof values, cudaMemcpyDeviceToHost, bench.stream()));
    check(cudaStreamSynchronize(bench.stream()));
    gigahertz.push_back(static_cast<double>(values[0]) / static_cast<double>(values[1]));
  });
  bench.add("SM clock after the work above", "GHz", gigahertz);
}

int attribute(cudaDeviceAttr which) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, 0));
  return value;
}

nlohmann::json describe(const Bench& bench, const std::string& commit) {
  int driver = 0, runtime = 0;
  check(cudaDriverGetVersion(&driver));
  check(cudaRuntimeGetVersion(&runtime));
  const cudaDeviceProp& properties = bench.properties();
  return {{"device", properties.name},
          {"compute_capability", std::to_string(properties.major) + "." + std::to_string(properties.minor)},
          {"multiprocessors", properties.multiProcessorCount},
          {"memory_bytes", properties.totalGlobalMem},
          {"l2_bytes", properties.l2CacheSize},
          {"max_sm_clock_mhz", attribute(cudaDevAttrClockRate) / 1000},
          {"max_memory_clock_mhz", attribute(cudaDevAttrMemoryClockRate) / 1000},
          {"cuda_driver", driver},
          {"cuda_runtime", runtime},
          {"commit", commit}};
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("What the GPU can do: the roofline of every other figure.");
  std::string json_path, commit = "unknown";
  app.add_option("--json", json_path, "Write the results here as JSON too");
  app.add_option("--commit", commit, "The commit this was built from, for the JSON");
  CLI11_PARSE(app, argc, argv);
  try {
    Bench bench;
    nlohmann::json report = describe(bench, commit);
    std::printf("%s\n", report.dump().c_str());
    measure_streams(bench);
    measure_barriers(bench);
    measure_graph_gaps(bench);
    measure_decoding(bench);
    measure_mma(bench);
    measure_cublas(bench);
    measure_clock(bench);
    report["results"] = bench.results();
    if (!json_path.empty() && !(std::ofstream(json_path) << report.dump(1) << '\n')) {
      throw std::runtime_error(json_path + ": cannot be written");
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "device_bench: %s\n", error.what());
    return 1;
  }
}
