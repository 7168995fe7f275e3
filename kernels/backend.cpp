#include "kernels/backend.h"

#include <algorithm>
#include <limits>
#include <string>

#include "nibble/error.h"

namespace nibble {
namespace {

[[noreturn]] void refuse(const std::string& sentence) { throw Error(ErrorKind::kInvalidArgument, sentence); }

std::string shape(int rows, int cols) {
  return std::string("[").append(std::to_string(rows)).append(", ").append(std::to_string(cols)).append("]");
}

std::string describe(DType dtype, int rows, int cols) {
  return std::string(to_string(dtype)) + " " + shape(rows, cols);
}

/// Fails unless `tensor` is a matrix of that shape and compute dtype.
void expect(const char* verb, const char* name, const Tensor& tensor, DType dtype, int rows, int cols) {
  if (tensor.dtype != dtype || tensor.rows != rows || tensor.cols != cols) {
    refuse(std::string(verb) + ": expected " + name + " to be " + describe(dtype, rows, cols) + ", found " +
           describe(tensor.dtype, tensor.rows, tensor.cols));
  }
}

void expect_compute_dtype(const char* verb, const Tensor& tensor) {
  if (tensor.dtype != DType::kF32 && tensor.dtype != DType::kF16 && tensor.dtype != DType::kBF16) {
    refuse(std::string(verb) + ": expected a compute dtype (fp32, fp16, bf16), found " +
           std::string(to_string(tensor.dtype)));
  }
}

/// Fails unless `parameters` are `count` values of that dtype, or none.
void expect_parameters(const char* verb, const char* name, const Buffer& parameters, int count, DType dtype) {
  const auto expected = static_cast<std::size_t>(count) * size_of(dtype);
  if (parameters.size() != 0 && parameters.size() != expected) {
    refuse(std::string(verb) + ": expected " + name + " to have " + std::to_string(count) + " " +
           std::string(to_string(dtype)) + " values, found " + std::to_string(parameters.size()) + " bytes");
  }
}

/// Fails unless every index is in [first, last).
void expect_indices(const char* verb, const char* name, std::span<const int> indices, int first, int last) {
  for (const int index : indices) {
    if (index < first || index >= last) {
      refuse(std::string(verb) + ": expected " + name + " from " + std::to_string(first) + " to " +
             std::to_string(last - 1) + ", found " + std::to_string(index));
    }
  }
}

/// Fails unless y has a row of the table for each of `count` ids.
void expect_table(const char* verb, const Weight& table, std::size_t count, const Tensor& y) {
  expect_compute_dtype(verb, y);
  expect(verb, "y", y, y.dtype, static_cast<int>(count), cols(table));
}

/// Fails unless tokens that the step before chooses are of the outputs that it has.
void check_tokens(std::span<const int> tokens, std::size_t outputs_before) {
  for (const int token : tokens) {
    if (token >= 0 || static_cast<std::size_t>(output_before(token)) < outputs_before) continue;
    refuse("begin: expected ids, or what one of " + std::to_string(outputs_before) +
           " outputs of the step before chooses, found " + std::to_string(token));
  }
}

/// Fails unless the segments are consecutive, cover `rows` rows and name each sequence once.
void check_segments(std::span<const Segment> segments, int rows) {
  int covered = 0;
  for (std::size_t i = 0; i < segments.size(); ++i) {
    const Segment& segment = segments[i];
    if (segment.rows < 1 || segment.past < 0) {
      refuse("begin: expected a segment of at least 1 row after at least 0, found " + std::to_string(segment.rows) +
             " after " + std::to_string(segment.past));
    }
    if (segment.first_row != covered) {
      refuse("begin: expected a segment to begin at row " + std::to_string(covered) + ", found " +
             std::to_string(segment.first_row));
    }
    const auto same = [&](const Segment& other) { return other.sequence == segment.sequence; };
    if (std::ranges::any_of(segments.first(i), same)) {
      refuse("begin: expected each sequence once, found " + std::to_string(segment.sequence) + " twice");
    }
    if (segment.rows > rows - covered) break;
    covered += segment.rows;
  }
  if (covered != rows) {
    refuse("begin: expected segments of " + std::to_string(rows) + " rows together, found another number");
  }
}

/// Fails unless there is a choice for each output, or none, and each could be made.
void check_choices(const Batch& batch) {
  if (!batch.choices.empty() && batch.choices.size() != batch.outputs.size()) {
    refuse("begin: expected " + std::to_string(batch.outputs.size()) + " choices, one an output, found " +
           std::to_string(batch.choices.size()));
  }
  const auto expect_in = [](const char* name, float value, float lowest, float highest) {
    if (value >= lowest && value <= highest) return;
    refuse("begin: expected " + std::string(name) + " from " + std::to_string(lowest) + " to " +
           std::to_string(highest) + ", found " + std::to_string(value));
  };
  for (const Choice& c : batch.choices) {
    expect_in("temperature", c.temperature, 0, std::numeric_limits<float>::max());
    expect_in("top_k", static_cast<float>(c.top_k), 0, std::numeric_limits<float>::max());
    expect_in("top_p", c.top_p, 0, 1);
    expect_in("min_p", c.min_p, 0, 1);
    expect_in("repetition_penalty", c.repetition_penalty, std::numeric_limits<float>::min(),
              std::numeric_limits<float>::max());
  }
}

/// Fails unless the cache has room for the segments.
void check_room(std::span<const Segment> segments, const KvCache& cache) {
  for (const Segment& segment : segments) {
    if (segment.sequence < 0 || segment.sequence >= cache.sequences) {
      refuse("attend: expected sequences from 0 to " + std::to_string(cache.sequences - 1) + ", found " +
             std::to_string(segment.sequence));
    }
    if (segment.past > cache.context - segment.rows) {
      refuse("attend: expected sequence " + std::to_string(segment.sequence) + " to fit a context of " +
             std::to_string(cache.context) + " tokens, found " + std::to_string(segment.rows) + " after " +
             std::to_string(segment.past));
    }
  }
}

void check_cache(const KvCache& cache, int layer) {
  const auto bytes =
      KvCache::bytes(cache.dtype, cache.layers, cache.sequences, cache.heads, cache.context, cache.head_dim) / 2;
  if (cache.keys.size() < bytes || cache.values.size() < bytes) {
    refuse("attend: expected a cache of twice " + std::to_string(bytes) + " bytes, found " +
           std::to_string(cache.keys.size()) + " and " + std::to_string(cache.values.size()));
  }
  if (layer < 0 || layer >= cache.layers) {
    refuse("attend: expected a layer from 0 to " + std::to_string(cache.layers - 1) + ", found " +
           std::to_string(layer));
  }
}

void expect_batch_rows(const char* verb, const Tensor& x, const Batch& batch) {
  if (x.rows != static_cast<int>(batch.tokens.size())) {
    refuse(std::string(verb) + ": expected the batch's " + std::to_string(batch.tokens.size()) + " rows, found " +
           std::to_string(x.rows));
  }
}

void expect_apart(const char* verb, const char* name, const Tensor& found, const Tensor& x) {
  if (x.rows > 0 && x.data == found.data) {
    refuse(std::string(verb) + ": expected " + name + " apart from x, found one inside the other");
  }
}

void expect_norm(const char* verb, const LayerNorm& norm, const Tensor& x, const Tensor& normed) {
  expect_compute_dtype(verb, x);
  expect(verb, "x", x, x.dtype, x.rows, norm.cols);
  expect(verb, "normed", normed, x.dtype, x.rows, norm.cols);
  expect_parameters(verb, "weight", norm.weight, norm.cols, x.dtype);
  expect_parameters(verb, "bias", norm.bias, norm.cols, x.dtype);
  expect_apart(verb, "normed", normed, x);
}

void expect_projection(const char* verb, const Projection& projection, const Tensor& x) {
  const auto& [linear, y, epilogue] = projection;
  const int n = rows(linear.weight);
  expect_compute_dtype(verb, x);
  expect(verb, "x", x, x.dtype, x.rows, cols(linear.weight));
  expect(verb, "y", y, x.dtype, x.rows, n);
  expect_parameters(verb, "bias", linear.bias, n, x.dtype);
  if (epilogue.residual) expect(verb, "residual", *epilogue.residual, x.dtype, x.rows, n);
  const bool only_added = epilogue.scale == 1.0F && epilogue.activation == Activation::kIdentity;
  if (x.rows > 0 && epilogue.residual && epilogue.residual->data == y.data && !only_added) {
    refuse(std::string(verb) + ": expected a residual apart from y beside a scale or an activation, found y itself");
  }
  expect_apart(verb, "y", y, x);
}

}  // namespace

void Backend::begin(const Batch& batch) {
  const auto rows = static_cast<int>(batch.tokens.size());
  if (batch.positions.size() != batch.tokens.size()) {
    refuse("begin: expected " + std::to_string(rows) + " positions, one a token, found " +
           std::to_string(batch.positions.size()));
  }
  check_tokens(batch.tokens, batch_.choices.size());
  check_segments(batch.segments, rows);
  expect_indices("begin", "outputs", batch.outputs, 0, rows);
  if (batch.outputs.size() > batch.tokens.size()) {
    refuse("begin: expected at most " + std::to_string(rows) + " outputs, as many as rows, found " +
           std::to_string(batch.outputs.size()));
  }
  check_choices(batch);
  largest_token_ = 0;
  for (const int token : batch.tokens) largest_token_ = std::max(largest_token_, token < 0 ? vocabulary_ - 1 : token);
  tokens_.assign(batch.tokens.begin(), batch.tokens.end());
  positions_.assign(batch.positions.begin(), batch.positions.end());
  segments_.assign(batch.segments.begin(), batch.segments.end());
  outputs_.assign(batch.outputs.begin(), batch.outputs.end());
  choices_.assign(batch.choices.begin(), batch.choices.end());
  batch_ = {tokens_, positions_, segments_, outputs_, choices_};
  do_begin();
}

void Backend::fill_in_tokens(std::span<const int> chosen) {
  for (int& token : tokens_) {
    if (token < 0) token = chosen[static_cast<std::size_t>(output_before(token))];
  }
}

void Backend::embed(const Weight& table, Tensor y) {
  expect_table("embed", table, batch_.tokens.size(), y);
  expect_indices("embed", "ids", {&largest_token_, 1}, 0, rows(table));
  if (y.rows > 0) do_embed(table, y);
}

void Backend::add_positions(const Weight& table, int offset, Tensor y) {
  expect_table("add_positions", table, batch_.positions.size(), y);
  expect_indices("add_positions", "ids", batch_.positions, -offset, rows(table) - offset);
  if (y.rows > 0) do_add_positions(table, offset, y);
}

void Backend::project(Tensor x, std::span<const Projection> projections) {
  expect_batch_rows("project", x, batch_);
  for (const Projection& projection : projections) expect_projection("project", projection, x);
  if (x.rows > 0) do_project(x, projections);
}

void Backend::project(const LayerNorm& norm, Tensor x, Tensor normed, std::span<const Projection> projections) {
  expect_batch_rows("project", x, batch_);
  expect_norm("project", norm, x, normed);
  for (const Projection& projection : projections) expect_projection("project", projection, normed);
  if (x.rows > 0) do_norm_project(norm, x, normed, projections);
}

void Backend::linear(const Linear& linear, Tensor x, Tensor y, const Epilogue& epilogue) {
  const Projection projection{linear, y, epilogue};
  expect_projection("linear", projection, x);
  if (x.rows > 0) do_linear(projection, x);
}

void Backend::linear(const LayerNorm& norm, const Linear& linear, Tensor x, Tensor normed, Tensor y) {
  const Projection projection{linear, y};
  expect_norm("linear", norm, x, normed);
  expect_projection("linear", projection, normed);
  if (x.rows > 0) do_norm_linear(norm, projection, x, normed);
}

void Backend::attend(Tensor q, Tensor k, Tensor v, int layer, KvCache& cache, Tensor y) {
  const int width = cache.heads * cache.head_dim;
  expect_compute_dtype("attend", q);
  expect_batch_rows("attend", q, batch_);
  expect("attend", "q", q, cache.dtype, q.rows, width);
  expect("attend", "k", k, cache.dtype, q.rows, width);
  expect("attend", "v", v, cache.dtype, q.rows, width);
  expect("attend", "y", y, cache.dtype, q.rows, width);
  check_cache(cache, layer);
  check_room(batch_.segments, cache);
  if (q.rows > 0) do_attend(q, k, v, layer, cache, y);
}

void Backend::gather_outputs(Tensor x, Tensor y) {
  expect_compute_dtype("gather_outputs", x);
  expect_batch_rows("gather_outputs", x, batch_);
  expect("gather_outputs", "y", y, x.dtype, static_cast<int>(batch_.outputs.size()), x.cols);
  if (y.rows > 0) do_gather_outputs(x, y);
}

void Backend::choose(Tensor logits) {
  expect_compute_dtype("choose", logits);
  if (logits.rows != static_cast<int>(batch_.choices.size()) || logits.cols < 1) {
    refuse("choose: expected a row of at least 1 logit for each of the batch's " +
           std::to_string(batch_.choices.size()) + " choices, found " + shape(logits.rows, logits.cols));
  }
  for (const Choice& choice : batch_.choices) expect_indices("choose", "seen ids", choice.seen, 0, logits.cols);
  vocabulary_ = logits.cols;
  do_choose(logits);
}

void Backend::copy_to_host(Tensor x, std::span<float> values) {
  expect_compute_dtype("copy_to_host", x);
  if (values.size() != static_cast<std::size_t>(x.rows) * static_cast<std::size_t>(x.cols)) {
    refuse("copy_to_host: expected room for " + shape(x.rows, x.cols) + " values, found " +
           std::to_string(values.size()));
  }
  if (!values.empty()) do_copy_to_host(x, values);
}

Weight Backend::prepare(const Weight& weight) { return prepare(weight, storage_of(weight, DType::kF32), "weight"); }

std::unique_ptr<Backend> make_backend(Device device, const CpuOptions& cpu) {
  if (device == Device::kCpu) return make_cpu_backend(cpu);
  const auto expect_cpu = [&](const char* option, bool is_set) {
    if (is_set) refuse(std::string(option) + ": expected device cpu, found " + std::string(to_string(device)));
  };
  expect_cpu("pinned threads", cpu.pin_threads);
  expect_cpu("8-bit activations", cpu.int8_activations);
  return make_cuda_backend(cpu.threads);
}

std::size_t scratch_bytes(Device device, int threads, const Extent& extent) {
  return device == Device::kCuda ? cuda_scratch_bytes(extent) : cpu_scratch_bytes(threads, extent);
}

}  // namespace nibble
