#include "nibble/inspect.h"

#include <algorithm>
#include <cmath>

#include "kernels/dispatch.h"
#include "nibble/error.h"
#include "runtime/loading.h"

namespace nibble {
namespace {

std::string stored_dtype(const Storage& storage) {
  if (storage.scheme == Scheme::kNone) return std::string(to_string(storage.dtype));
  return is_int8(storage.scheme) ? "int8" : "uint8";
}

std::vector<std::int64_t> stored_shape(const Storage& storage, std::int64_t n, std::int64_t k) {
  if (is_4bit(storage.scheme)) return {(n * k + 1) / 2, 1};
  return {n, k};
}

ParameterReport report(const Parameter& p, const StoragePolicy& policy, const ParameterSource& source) {
  if (p.kind == Parameter::Kind::kVector) {
    const std::uint64_t bytes = static_cast<std::uint64_t>(p.k) * size_of(policy.compute_dtype);
    const std::string dtype(to_string(policy.compute_dtype));
    return {p.name, p.memory_class(), Scheme::kNone, dtype, {p.k}, {p.k}, bytes, 0};
  }
  const Storage storage = target_storage(policy, p, source);
  const StorageBytes bytes = storage_bytes(storage, p.n, p.k);
  return {p.name + ".weight",    p.memory_class(), storage.scheme,
          stored_dtype(storage), {p.n, p.k},       stored_shape(storage, p.n, p.k),
          bytes.codes,           bytes.state};
}

const Parameter& find_matrix(const std::vector<Parameter>& parameters, std::string name, const std::string& model) {
  if (name.starts_with("model.")) name.erase(0, 6);
  if (name.ends_with(".weight")) name.erase(name.size() - 7);
  const auto it = std::ranges::find_if(
      parameters, [&](const Parameter& p) { return p.kind != Parameter::Kind::kVector && p.name == name; });
  if (it == parameters.end()) throw Error(ErrorKind::kNotFound, model + ": has no weight matrix named '" + name + "'");
  return *it;
}

std::vector<float> decoded(const Weight& weight) {
  std::vector<float> values(static_cast<std::size_t>(rows(weight)) * static_cast<std::size_t>(cols(weight)));
  decode_all(weight, values);
  return values;
}

// What one layout adds to a report: its codes, its levels and how many weights stand at each.

template <class T>
void describe_codes(const Dense<T>&, std::size_t, TensorReport&) {}

void describe_codes(const Int8Row& weight, std::size_t first, TensorReport& out) {
  const auto* codes = weight.codes.as<std::int8_t>();
  out.first_codes.assign(codes, codes + first);
  const auto* bytes = weight.codes.as<std::uint8_t>();
  out.first_bytes.assign(bytes, bytes + first);
  out.histogram.resize(255);
  for (int code = -127; code <= 127; ++code) out.levels.push_back(static_cast<float>(code) / 127.0F);
  for (std::size_t i = 0; i < weight.codes.size(); ++i) {
    ++out.histogram[static_cast<std::size_t>(std::max<int>(codes[i], -127) + 127)];
  }
}

template <class Scale>
void describe_codes(const Lut4<Scale>& weight, std::size_t first, TensorReport& out) {
  const auto view = weight.view();
  for (std::size_t i = 0; i < first; ++i) out.first_codes.push_back(view.code(static_cast<std::int64_t>(i)));
  out.first_bytes.assign(view.codes, view.codes + (first + 1) / 2);
  out.levels.assign(view.levels, view.levels + 16);
  out.histogram.resize(16);
  const std::int64_t elements = static_cast<std::int64_t>(weight.n) * weight.k;
  for (std::int64_t i = 0; i < elements; ++i) ++out.histogram[static_cast<std::size_t>(view.code(i))];
}

template <class Zero>
void describe_codes(const Int4Group<Zero>& weight, std::size_t first, TensorReport& out) {
  const auto* codes = weight.codes.template as<std::uint8_t>();
  for (std::size_t i = 0; i < first; ++i) out.first_codes.push_back(code4(codes, static_cast<std::int64_t>(i)));
  out.first_bytes.assign(codes, codes + (first + 1) / 2);
  // A group's largest magnitude is 7.5 steps; of an asymmetric group, whose least is code 0, half of its range is.
  const float zero = std::is_same_v<Zero, SymmetricZero> ? 8.0F : 7.5F;
  for (int code = 0; code < 16; ++code) out.levels.push_back((static_cast<float>(code) - zero) / 7.5F);
  out.histogram.resize(16);
  const std::int64_t elements = static_cast<std::int64_t>(weight.n) * weight.k;
  for (std::int64_t i = 0; i < elements; ++i) ++out.histogram[static_cast<std::size_t>(code4(codes, i))];
}

void measure_errors(std::span<const float> original, std::span<const float> now, TensorReport& out) {
  double signal = 0;
  double noise = 0;
  out.max_error = 0;
  for (std::size_t i = 0; i < original.size(); ++i) {
    const double error = static_cast<double>(now[i]) - static_cast<double>(original[i]);
    out.max_error = std::max(out.max_error, std::abs(error));
    noise += error * error;
    signal += static_cast<double>(original[i]) * static_cast<double>(original[i]);
  }
  out.rms_error = std::sqrt(noise / static_cast<double>(original.size()));
  out.snr_db = 10.0 * std::log10(signal / noise);
}

}  // namespace

std::vector<ParameterReport> inspect_model(const std::string& model, const LoadOptions& options) try {
  const auto source = open_source(model, options.seed);
  const StoragePolicy policy = resolve_policy(options, *source);
  std::vector<ParameterReport> reports;
  for (const Parameter& p : find_parameters(*source)) {
    reports.push_back(report(p, policy, *source));
  }
  return reports;
} catch (const Error& error) {
  rethrow_naming(model, error);
}

TensorReport inspect_tensor(const std::string& model, const std::string& name, const LoadOptions& options) try {
  const auto source = open_source(model, options.seed);
  const StoragePolicy policy = resolve_policy(options, *source);
  const std::vector<Parameter> parameters = find_parameters(*source);
  Parameter parameter = find_matrix(parameters, name, model);
  // A scheme that is asked for is shown for any matrix, the embedding too.
  if (options.scheme) parameter.kind = Parameter::Kind::kLinear;

  const auto backend = make_cpu_backend({.threads = options.threads, .target = options.cpu_target});
  const Storage stored = source->describe(parameter.name).storage;
  const Storage target = target_storage(policy, parameter, stored);
  const Weight before = source->matrix(parameter.name, stored, *backend);
  const Weight after = backend->prepare(before, target, parameter.name);
  const std::vector<float> original = decoded(before);
  const std::vector<float> now = decoded(after);

  TensorReport out;
  out.name = parameter.name + ".weight";
  out.scheme = target.scheme;
  out.blocksize = target.blocksize;
  out.shape = {parameter.n, parameter.k};
  out.stored_shape = stored_shape(target, parameter.n, parameter.k);
  const std::size_t first = std::min<std::size_t>(8, original.size());
  out.first_values.assign(original.begin(), original.begin() + static_cast<std::ptrdiff_t>(first));
  out.first_decoded.assign(now.begin(), now.begin() + static_cast<std::ptrdiff_t>(first));
  with_layout(after, [&](const auto& weight) { describe_codes(weight, first, out); });
  measure_errors(original, now, out);
  return out;
} catch (const Error& error) {
  rethrow_naming(model, error);
}

}  // namespace nibble
