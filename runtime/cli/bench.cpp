// nibble bench: speed, memory and quality of models, schemes and dtypes, in every combination asked for.
#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "runtime/cli/bench_report.h"
#include "runtime/cli/commands.h"
#include "runtime/cli/flags.h"
#include "runtime/cli/host.h"
#include "runtime/cli/kernel_report.h"
#include "runtime/cli/ledger.h"
#include "runtime/cli/opening.h"
#include "runtime/cli/render.h"
#include "runtime/cli/windows.h"

namespace nibble::cli {
namespace {

struct BenchArguments {
  std::vector<std::string> models;
  std::vector<std::optional<Scheme>> schemes{std::nullopt};
  std::vector<std::optional<DType>> dtypes{std::nullopt};
  std::vector<Device> devices{Device::kCpu};
  std::vector<int> threads{0};
  LoadOptions load;  ///< what is not in lists
  std::vector<int> prompts{512}, generated{128}, depths{0}, sequences{1};
  int repetitions = 5;
  ResultFormat format = ResultFormat::kMarkdown;
  bool kernels = false, explains = false;
  std::string text;  ///< empty: no perplexity
  WindowOptions windows;
};

void add_counts(CLI::App& app, const std::string& names, std::vector<int>& counts, int low, int high,
                const std::string& help) {
  add_value(
      app, names, "N,...",
      [&counts, low, high](const FlagValue& value) {
        counts = value.ranges(
            fmt::format("whole numbers from {} to {} such as 1,2 or 1-8 or 1-8+2 or 1-8*2", low, high), low, high);
      },
      help);
}

void declare(CLI::App& app, BenchArguments& a) {
  constexpr int kMostTokens = 1 << 20;
  app.add_option("-m,--model", a.models, "Checkpoint directory or synthetic:opt-SIZE; may be given several times")
      ->type_name("DIR")
      ->allow_extra_args(false)
      ->required();
  add_value(
      app, "--scheme", "NAME,...",
      [&](const FlagValue& value) { a.schemes = value.names("schemes among " + scheme_names("and"), parse_scheme); },
      "Hold the linear weights as these (default: as the checkpoint has them)");
  add_value(
      app, "--dtype", "TYPE,...",
      [&](const FlagValue& value) { a.dtypes = value.names("types among fp32, bf16 and fp16", parse_compute_dtype); },
      "Compute in these (default: the checkpoint's own)");
  add_value(
      app, "--device", "NAME,...",
      [&](const FlagValue& value) {
        a.devices.clear();
        for (const auto& device : value.names("cpu or cuda", parse_device)) a.devices.push_back(*device);
      },
      "Compute on cpu or cuda (default: cpu)");
  add_counts(app, "-t,--threads", a.threads, 0, 1024, "Threads, 0: one a core (default: 0)");
  add_cpu_flags(app, a.load);
  add_counts(app, "-p,--n-prompt", a.prompts, 0, kMostTokens, "Prompt tokens to read, 0: no such test (default: 512)");
  add_counts(app, "-n,--n-gen", a.generated, 0, kMostTokens, "Tokens to generate, 0: no such test (default: 128)");
  add_counts(app, "-d,--n-depth", a.depths, 0, kMostTokens, "Tokens held before the test begins (default: 0)");
  add_counts(app, "-b,--batch", a.sequences, 1, 1 << 14, "Sequences at once (default: 1)");
  add_value(
      app, "-r,--repetitions", "N",
      [&](const FlagValue& value) { a.repetitions = value.number("a whole number from 1 to 10000", 1, 10000); },
      "Runs measured of each test, after one that is not (default: 5)");
  add_value(
      app, "-o,--output", "FORMAT",
      [&](const FlagValue& value) { a.format = value.name("md, json, jsonl or csv", parse_result_format); },
      "Print md, json, jsonl or csv (default: md)");
  CLI::Option* const text =
      app.add_option("--perplexity", a.text, "Measure the perplexity of this text too")->type_name("FILE")->take_last();
  CLI::Option* const kernels =
      app.add_flag("--kernels", a.kernels, "Measure the kernels of each test's first step instead, each by itself")
          ->excludes(text);
  app.add_flag("--explain-kernels", a.explains,
               "Say instead which kernels multiply by each linear's weight, and from how many tokens of a sequence on")
      ->excludes(text)
      ->excludes(kernels);
  add_window_flags(app, a.windows, text);
  app.footer(
      "Every combination is measured. Lists may hold ranges: first-last, first-last+step, first-last*factor.\n"
      "t/s: the median and the median distance from it. GB/s: weights and cache read while generating; % roof: of "
      "what\n"
      "the same threads can read from memory, measured before and behind a test, which weights that fit the caches\n"
      "exceed.");
}

std::vector<ModelArguments> loads(const BenchArguments& a) {
  std::vector<ModelArguments> loads;
  for (const std::string& model : a.models) {
    for (const auto& scheme : a.schemes) {
      for (const auto& dtype : a.dtypes) {
        for (const Device device : a.devices) {
          for (const int threads : a.threads) {
            LoadOptions& load = loads.emplace_back(ModelArguments{model, a.load}).load;
            load.scheme = scheme;
            load.compute_dtype = dtype;
            load.device = device;
            load.threads = threads;
          }
        }
      }
    }
  }
  return loads;
}

std::vector<BenchTest> tests(const BenchArguments& a) {
  std::vector<BenchTest> tests;
  for (const int depth : a.depths) {
    for (const int sequences : a.sequences) {
      for (const int prompt : a.prompts) tests.push_back({prompt, 0, depth, sequences});
      for (const int generated : a.generated) tests.push_back({0, generated, depth, sequences});
    }
  }
  std::erase_if(tests, [](const BenchTest& test) { return test.tokens() == 0; });
  return tests;
}

/// Tokens of each prompt: those held before, and those to be read. The first token to generate comes from the last one.
int prompt_length(const BenchTest& test) { return std::max(1, test.depth + test.prompt); }

/// Room for the prompt, and where tokens are measured for the first one and those.
SessionOptions session_options(const BenchTest& test) {
  const int behind = test.generated > 0 ? 1 + test.generated : 0;
  return {.context = prompt_length(test) + behind, .sequences = test.sequences};
}

/// Tokens that differ from run to run behind the depth, so that a session that remembers the last run must read them.
std::vector<std::vector<int>> prompts(const BenchTest& test, int run, int vocab_size) {
  std::vector<std::vector<int>> prompts;
  for (int sequence = 0; sequence < test.sequences; ++sequence) {
    std::vector<int>& prompt = prompts.emplace_back();
    for (int i = 0; i < prompt_length(test); ++i) {
      prompt.push_back((31 * (i % vocab_size) + 17 * sequence + (i < test.depth ? 0 : run)) % vocab_size);
    }
  }
  return prompts;
}

/// One run by itself, which also fills the cache up to the depth and touches the weights for the first time, and then
/// `repetitions`.
struct TestRuns {
  GenerateStats first;
  std::vector<GenerateStats> measured;
};

TestRuns run_test(Session& session, const BenchTest& test, int vocab_size, int repetitions, ProgressDisplay& display) {
  const GenerateOptions options{.max_tokens = 1 + test.generated, .ignore_eos = true};
  const auto run_once = [&](int run) {
    session.generate(prompts(test, run, vocab_size), options);
    display.update(static_cast<std::uint64_t>(run), static_cast<std::uint64_t>(repetitions));
    return session.last_stats();
  };
  TestRuns runs{run_once(0), {}};
  for (int run = 1; run <= repetitions; ++run) runs.measured.push_back(run_once(run));
  return runs;
}

Perplexity measure_perplexity(const Engine& engine, const BenchArguments& a) {
  const Windows windows(engine, a.text, a.windows);
  Session session = engine.session({.context = windows.context()});
  Session* const sessions[] = {&session};
  ProgressDisplay display("perplexity", progress_style(ProgressStyle::kNone));
  Mean loss;
  predict(
      sessions, engine.info().vocab_size, windows,
      [&](std::span<const Distribution> by_model, int token) { loss.add(-by_model.front().log_probability(token)); },
      [&](int done) { display.update(static_cast<std::uint64_t>(done), static_cast<std::uint64_t>(windows.count())); });
  return perplexity(loss);
}

/// Threads that a load computes with.
int threads_of(const LoadOptions& load) {
  return load.threads == 0 ? static_cast<int>(std::thread::hardware_concurrency()) : load.threads;
}

/// What a load's device and threads can read. A GPU's memory is nobody else's, and is measured before a model fills it;
/// a CPU's is shared with others, who leave now more of it and now less: it is measured again beside what it limits.
class Roofline {
 public:
  explicit Roofline(const LoadOptions& load) : load_(load), last_(measure_read_bandwidth(load.device, load.threads)) {}

  /// What was read the last time.
  double last() const { return last_; }
  /// The more of what was read before a test and behind it.
  double beside_test() {
    const double before = last_;
    if (load_.device == Device::kCpu) last_ = measure_read_bandwidth(load_.device, load_.threads);
    return std::max(before, last_);
  }

 private:
  const LoadOptions& load_;
  double last_;
};

void measure(const ModelArguments& arguments, const BenchArguments& a, BenchReport& report) {
  Roofline roofline(arguments.load);
  reset_peak_resident();
  const auto start = std::chrono::steady_clock::now();
  const Engine engine = Engine::open(arguments.model, arguments.load);
  const std::chrono::duration<double> load_time = std::chrono::steady_clock::now() - start;
  const std::uint64_t loading_peak = peak_resident();
  const std::vector<ParameterReport> parameters = inspect_model(arguments.model, arguments.load);
  std::optional<Perplexity> perplexity;
  if (!a.text.empty()) perplexity = measure_perplexity(engine, a);

  const ModelInfo& info = engine.info();
  const Device device = arguments.load.device;
  for (const BenchTest& test : tests(a)) {
    reset_peak_resident();
    const SessionOptions options = session_options(test);
    Session session = engine.session(options);
    const TestRuns runs = [&] {
      ProgressDisplay display(info.name, progress_style(ProgressStyle::kNone));
      return run_test(session, test, info.vocab_size, a.repetitions, display);
    }();
    const MemoryLedger memory = session.memory();
    const StepReads reads =
        step_reads(parameters, memory[MemoryClass::kKvCache],
                   static_cast<std::uint64_t>(options.context) * static_cast<std::uint64_t>(options.sequences));
    report.add({.test = test,
                .model = info,
                .device = device,
                .threads = threads_of(arguments.load),
                .int8_activations = arguments.load.int8_activations,
                .memory = memory,
                .peak = device == Device::kCpu ? std::max(loading_peak, peak_resident()) : memory.total(),
                .load_seconds = load_time.count(),
                .first_run_token = runs.first.first_token_seconds,
                .seconds = test_seconds(test, runs.measured),
                .first_token = first_token_seconds(runs.measured),
                .reads = decode_reads(reads, test),
                .read_bandwidth = test.generated > 0 ? roofline.beside_test() : roofline.last(),
                .perplexity = perplexity});
  }
}

void measure_kernels(const ModelArguments& arguments, const BenchArguments& a, KernelReport& report) {
  Roofline roofline(arguments.load);
  const Engine engine = Engine::open(arguments.model, arguments.load);
  for (const BenchTest& test : tests(a)) {
    Session session = engine.session(session_options(test));
    std::vector<KernelTiming> timings = session.time_kernels(std::max(1, test.prompt), test.depth, a.repetitions);
    const double read_bandwidth = roofline.beside_test();
    for (KernelTiming& timing : timings) {
      report.add({.model = engine.info(),
                  .device = arguments.load.device,
                  .threads = threads_of(arguments.load),
                  .depth = test.depth,
                  .timing = std::move(timing),
                  .read_bandwidth = read_bandwidth});
    }
  }
}

void explain_kernels(const ModelArguments& arguments, WayReport& report) {
  const Engine engine = Engine::open(arguments.model, arguments.load);
  for (const LinearKernels& kernels : engine.session({.context = 1}).explain_kernels()) {
    report.add(engine.info(), arguments.load.device, kernels);
  }
}

/// Fills a report, whose document is whole even where a load fails.
template <class Report, class Add>
ExitCode fill(Report report, const BenchArguments& a, Add&& add) {
  try {
    for (const ModelArguments& load : loads(a)) add(load, report);
  } catch (...) {
    report.finish();
    throw;
  }
  report.finish();
  return kSuccess;
}

/// Finds what cannot be measured before anything is.
void check(const BenchArguments& a) {
  if (tests(a).empty()) throw UsageError("bench: expected something to measure, found -p 0 and -n 0");
  for (const ModelArguments& load : loads(a)) {
    for (const BenchTest& test : tests(a)) predict_fitting_memory(load, session_options(test));
    if (!a.text.empty()) require_text(describe_model(load.model, load.load), a.text);
  }
}

ExitCode bench(const BenchArguments& a) {
  if (a.explains) return fill(WayReport(a.format), a, explain_kernels);
  check(a);
  if (a.kernels) {
    return fill(KernelReport(a.format), a,
                [&](const ModelArguments& load, KernelReport& report) { measure_kernels(load, a, report); });
  }
  return fill(BenchReport(a.format, !a.text.empty()), a,
              [&](const ModelArguments& load, BenchReport& report) { measure(load, a, report); });
}

}  // namespace

Action declare_bench(CLI::App& app) {
  const auto arguments = std::make_shared<BenchArguments>();
  declare(app, *arguments);
  return [arguments] { return bench(*arguments); };
}

}  // namespace nibble::cli
