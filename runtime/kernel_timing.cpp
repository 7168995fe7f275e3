// The kernels of a step: how long each takes by itself, and which ones multiply.
#include <chrono>
#include <cstdint>

#include "kernels/storage.h"
#include "nibble/error.h"
#include "runtime/session_impl.h"

namespace nibble {
namespace {

/// What belongs to a batch of `rows` tokens for every sequence.
struct EvenBatch {
  std::vector<int> tokens, positions, outputs;
  std::vector<Segment> segments;

  EvenBatch(int sequences, int rows, int past, int vocab_size) {
    for (int sequence = 0; sequence < sequences; ++sequence) {
      segments.push_back({sequence, sequence * rows, rows, past});
      for (int i = 0; i < rows; ++i) {
        tokens.push_back((31 * i + 17 * sequence) % vocab_size);
        positions.push_back(past + i);
      }
      outputs.push_back((sequence + 1) * rows - 1);
    }
  }
  Batch batch() const { return {tokens, positions, segments, outputs}; }
};

/// Numbers of keys that the rows of a sequence see, and multiplications with additions for each key or value number.
struct Attention {
  double keys, seen;

  Attention(int rows, int past) : keys(past + rows), seen(rows * (past + (rows + 1) / 2.0)) {}
};

}  // namespace

std::vector<KernelTiming> Session::time_kernels(int rows, int past, int repetitions) {
  Impl& s = *impl_;
  const OptModel& model = s.engine->model;
  const ModelConfig& config = model.config();
  const int sequences = s.plan.sequences;
  if (rows < 1 || past < 0 || repetitions < 1 || std::int64_t{past} + rows > s.plan.context ||
      std::int64_t{sequences} * rows > s.plan.step_rows) {
    throw Error(ErrorKind::kInvalidArgument, "time_kernels: expected at least one row and repetition, at most " +
                                                 std::to_string(s.plan.context) + " tokens in a sequence and " +
                                                 std::to_string(s.plan.step_rows) + " in a step, found " +
                                                 std::to_string(rows) + " rows behind " + std::to_string(past) +
                                                 " tokens in " + std::to_string(sequences) + " sequences");
  }
  reset();
  const EvenBatch even(sequences, rows, past, config.vocab_size);
  const Batch batch = even.batch();
  Backend& backend = *s.backend;
  backend.begin(batch);
  const Tensor stream = model.forward(backend, batch, s.cache, s.activations);
  std::vector<float> one_row(static_cast<std::size_t>(config.hidden_size));
  const auto finish = [&] { backend.copy_to_host(stream.slice(0, 1), one_row); };  // waits for the device
  const Attention attention(rows, past);
  const double width = config.hidden_size, of_cache = 2.0 * width * static_cast<double>(size_of(s.cache.dtype));

  std::vector<KernelTiming> timings;
  std::uint64_t key = 1;  // steps of sessions are recorded under 0
  for (const OptModel::Kernel& kernel :
       model.kernels(backend, sequences * rows, sequences, s.cache, s.activations, s.results)) {
    const bool attends = kernel.bytes == 0;
    const int m = kernel.times == 1 ? sequences : sequences * rows;
    KernelTiming timing{.name = std::string(kernel.name),
                        .m = m,
                        .n = kernel.n,
                        .k = kernel.k,
                        .bytes = attends ? sequences * attention.keys * of_cache : static_cast<double>(kernel.bytes),
                        .flops = attends ? 4.0 * sequences * attention.seen * width : 2.0 * m * kernel.n * kernel.k,
                        .seconds = {}};
    constexpr int kWarmUps = 2;  // the second records what a device can repeat
    for (int i = -kWarmUps; i < repetitions; ++i) {
      const auto begin = std::chrono::steady_clock::now();
      backend.repeat(key, kernel.run);
      finish();
      const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
      if (i >= 0) timing.seconds.push_back(taken.count() / kernel.times);
    }
    ++key;
    timings.push_back(std::move(timing));
  }
  return timings;
}

std::vector<LinearKernels> Session::explain_kernels() const {
  const OptModel& model = impl_->engine->model;
  std::vector<LinearKernels> kernels;
  for (const OptModel::NamedLinear& linear : model.linears()) {
    const Storage storage = storage_of(linear.weight, model.compute_dtype());
    const std::string_view layout =
        storage.scheme == Scheme::kNone ? to_string(storage.dtype) : to_string(storage.scheme);
    LinearKernels each{
        std::string(linear.name), std::string(layout), nibble::rows(linear.weight), cols(linear.weight), {}};
    for (const LinearWay& way : impl_->backend->ways(linear.weight, linear.together, model.compute_dtype())) {
      each.ways.emplace_back(way.from, way.name);
    }
    kernels.push_back(std::move(each));
  }
  return kernels;
}

}  // namespace nibble
