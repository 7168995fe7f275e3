// What `nibble bench --kernels` and `--explain-kernels` found: the kernels of a model's step.
#pragma once

#include "nibble/engine.h"
#include "runtime/cli/result_rows.h"

namespace nibble::cli {

struct KernelResult {
  ModelInfo model;
  Device device;
  int threads;
  int depth;  ///< tokens each sequence holds
  KernelTiming timing;
  double read_bandwidth;  ///< the roofline, in bytes a second
};

/// Prints results as they come.
class KernelReport {
 public:
  explicit KernelReport(ResultFormat format);

  void add(const KernelResult& result);
  void finish() { rows_.finish(); }

 private:
  ResultRows rows_;
};

/// Prints which kernels multiply.
class WayReport {
 public:
  explicit WayReport(ResultFormat format);

  void add(const ModelInfo& model, Device device, const LinearKernels& kernels);
  void finish() { rows_.finish(); }

 private:
  ResultRows rows_;
};

}  // namespace nibble::cli
