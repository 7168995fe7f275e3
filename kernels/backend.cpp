#include "kernels/backend.h"

#include <algorithm>
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

/// Fails unless `parameters` are `count` fp32 values, or none.
void expect_parameters(const char* verb, const char* name, const Buffer& parameters, int count, DType dtype) {
  const auto expected = static_cast<std::size_t>(count) * size_of(dtype);
  if (parameters.size() != 0 && parameters.size() != expected) {
    refuse(std::string(verb) + ": expected " + name + " to have " + std::to_string(count) + " " +
           std::string(to_string(dtype)) + " values, found " + std::to_string(parameters.size()) + " bytes");
  }
}

/// Fails unless every index is in [0, limit).
void expect_indices(const char* verb, const char* name, std::span<const int> indices, int limit) {
  for (const int index : indices) {
    if (index < 0 || index >= limit) {
      refuse(std::string(verb) + ": expected " + name + " from 0 to " + std::to_string(limit - 1) + ", found " +
             std::to_string(index));
    }
  }
}

void check_embedding(const char* verb, const Weight& table, std::span<const int> ids, const Tensor& y) {
  expect_compute_dtype(verb, y);
  expect(verb, "y", y, y.dtype, static_cast<int>(ids.size()), cols(table));
  expect_indices(verb, "ids", ids, rows(table));
}

void check_segment(const Segment& segment, const KvCache& cache) {
  if (segment.sequence < 0 || segment.sequence >= cache.sequences) {
    refuse("attend: expected sequences from 0 to " + std::to_string(cache.sequences - 1) + ", found " +
           std::to_string(segment.sequence));
  }
  if (segment.rows < 1 || segment.past < 0 || segment.past > cache.context - segment.rows) {
    refuse("attend: expected sequence " + std::to_string(segment.sequence) + " to fit a context of " +
           std::to_string(cache.context) + " tokens, found " + std::to_string(segment.rows) + " after " +
           std::to_string(segment.past));
  }
}

/// Fails unless the segments are consecutive, cover `rows` rows and name each sequence once.
void check_segments(std::span<const Segment> segments, int rows, const KvCache& cache) {
  int covered = 0;
  for (std::size_t i = 0; i < segments.size(); ++i) {
    check_segment(segments[i], cache);
    if (segments[i].first_row != covered) {
      refuse("attend: expected a segment to begin at row " + std::to_string(covered) + ", found " +
             std::to_string(segments[i].first_row));
    }
    const auto same = [&](const Segment& other) { return other.sequence == segments[i].sequence; };
    if (std::ranges::any_of(segments.first(i), same)) {
      refuse("attend: expected each sequence once, found " + std::to_string(segments[i].sequence) + " twice");
    }
    if (segments[i].rows > rows - covered) break;
    covered += segments[i].rows;
  }
  if (covered != rows) {
    refuse("attend: expected segments of " + std::to_string(rows) + " rows together, found another number");
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

}  // namespace

void Backend::embed(const Weight& table, std::span<const int> ids, Tensor y) {
  check_embedding("embed", table, ids, y);
  if (!ids.empty()) do_embed(table, ids, y);
}

void Backend::add_embedding(const Weight& table, std::span<const int> ids, Tensor y) {
  check_embedding("add_embedding", table, ids, y);
  if (!ids.empty()) do_add_embedding(table, ids, y);
}

void Backend::layer_norm(const LayerNorm& norm, Tensor x, Tensor y) {
  expect_compute_dtype("layer_norm", x);
  expect("layer_norm", "x", x, x.dtype, x.rows, norm.cols);
  expect("layer_norm", "y", y, x.dtype, x.rows, norm.cols);
  expect_parameters("layer_norm", "weight", norm.weight, norm.cols, x.dtype);
  expect_parameters("layer_norm", "bias", norm.bias, norm.cols, x.dtype);
  if (x.rows > 0) do_layer_norm(norm, x, y);
}

void Backend::linear(const Linear& linear, Tensor x, Tensor y, const Epilogue& epilogue) {
  const int n = rows(linear.weight);
  expect_compute_dtype("linear", x);
  expect("linear", "x", x, x.dtype, x.rows, cols(linear.weight));
  expect("linear", "y", y, x.dtype, x.rows, n);
  expect_parameters("linear", "bias", linear.bias, n, x.dtype);
  if (epilogue.residual) expect("linear", "residual", *epilogue.residual, x.dtype, x.rows, n);
  if (x.rows == 0) return;
  if (x.data == y.data) refuse("linear: expected y apart from x, found one inside the other");
  do_linear(linear, x, y, epilogue);
}

void Backend::attend(Tensor q, Tensor k, Tensor v, std::span<const Segment> segments, int layer, KvCache& cache,
                     Tensor y) {
  const int width = cache.heads * cache.head_dim;
  expect_compute_dtype("attend", q);
  expect("attend", "q", q, cache.dtype, q.rows, width);
  expect("attend", "k", k, cache.dtype, q.rows, width);
  expect("attend", "v", v, cache.dtype, q.rows, width);
  expect("attend", "y", y, cache.dtype, q.rows, width);
  check_cache(cache, layer);
  check_segments(segments, q.rows, cache);
  if (q.rows > 0) do_attend(q, k, v, segments, layer, cache, y);
}

void Backend::gather_rows(Tensor x, std::span<const int> rows, Tensor y) {
  expect_compute_dtype("gather_rows", x);
  expect("gather_rows", "y", y, x.dtype, static_cast<int>(rows.size()), x.cols);
  expect_indices("gather_rows", "rows", rows, x.rows);
  if (!rows.empty()) do_gather_rows(x, rows, y);
}

void Backend::copy_to_host(Tensor x, std::span<float> values) {
  expect_compute_dtype("copy_to_host", x);
  if (values.size() != static_cast<std::size_t>(x.rows) * static_cast<std::size_t>(x.cols)) {
    refuse("copy_to_host: expected room for " + shape(x.rows, x.cols) + " values, found " +
           std::to_string(values.size()));
  }
  if (!values.empty()) do_copy_to_host(x, values);
}

std::unique_ptr<Backend> make_backend(Device device, int threads) {
  return device == Device::kCuda ? make_cuda_backend() : make_cpu_backend(threads);
}

}  // namespace nibble
