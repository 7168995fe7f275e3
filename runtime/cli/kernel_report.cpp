#include "runtime/cli/kernel_report.h"

#include <spdlog/fmt/fmt.h>

#include <nlohmann/json.hpp>

#include "runtime/cli/figures.h"

namespace nibble::cli {

KernelReport::KernelReport(ResultFormat format)
    : rows_(format, {{"model", 20, true},
                     {"backend", 7, true},
                     {"threads", 7, false},
                     {"scheme", 11, true},
                     {"dtype", 5, true},
                     {"kernel", 9, true},
                     {"rows", 6, false},
                     {"n x k", 13, false},
                     {"depth", 6, false},
                     {"us", 18, false},
                     {"GB/s", 8, false},
                     {"% roof", 6, false},
                     {"TFLOP/s", 8, false}}) {}

void KernelReport::add(const KernelResult& r) {
  const KernelTiming& t = r.timing;
  const Samples seconds(t.seconds);
  const double reads = t.bytes / seconds.median(), flops = t.flops / seconds.median();
  const std::string backend = backend_name(r.device);
  rows_.add(
      {r.model.name, backend, std::to_string(r.threads), std::string(to_string(r.model.scheme)),
       std::string(to_string(r.model.compute_dtype)), t.name, std::to_string(t.m), fmt::format("{} x {}", t.n, t.k),
       std::to_string(r.depth), fmt::format("{:.2f} ± {:.2f}", seconds.median() * 1e6, seconds.spread() * 1e6),
       fmt::format("{:.2f}", reads / 1e9), fmt::format("{:.1f}", 100 * reads / r.read_bandwidth),
       fmt::format("{:.3f}", flops / 1e12)},
      {{"model_filename", r.model.name},
       {"backends", backend},
       {"n_threads", r.threads},
       {"scheme", to_string(r.model.scheme)},
       {"dtype", to_string(r.model.compute_dtype)},
       {"kernel", t.name},
       {"m", t.m},
       {"n", t.n},
       {"k", t.k},
       {"n_depth", r.depth},
       {"median_ns", nanoseconds(seconds.median())},
       {"spread_ns", nanoseconds(seconds.spread())},
       {"read_bytes", t.bytes},
       {"read_bytes_per_second", reads},
       {"flops", t.flops},
       {"flops_per_second", flops},
       {"roofline_bytes_per_second", r.read_bandwidth},
       {"roofline_share", reads / r.read_bandwidth},
       {"samples_ns", nanoseconds(seconds)}});
}

WayReport::WayReport(ResultFormat format)
    : rows_(format, {{"model", 20, true},
                     {"backend", 7, true},
                     {"dtype", 5, true},
                     {"kernel", 12, true},
                     {"layout", 8, true},
                     {"n x k", 13, false},
                     {"from tokens", 11, false},
                     {"way", 16, true}}) {}

void WayReport::add(const ModelInfo& model, Device device, const LinearKernels& kernels) {
  const std::string backend = backend_name(device);
  for (const auto& [from, way] : kernels.ways) {
    rows_.add({model.name, backend, std::string(to_string(model.compute_dtype)), kernels.name, kernels.layout,
               fmt::format("{} x {}", kernels.n, kernels.k), std::to_string(from), way},
              {{"model_filename", model.name},
               {"backends", backend},
               {"dtype", to_string(model.compute_dtype)},
               {"kernel", kernels.name},
               {"layout", kernels.layout},
               {"n", kernels.n},
               {"k", kernels.k},
               {"from_tokens", from},
               {"way", way}});
  }
}

}  // namespace nibble::cli
