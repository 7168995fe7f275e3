// From a model's name and load options to its parameters' source and their storage: the way into models/ that loading,
// prediction, inspection and quantization share.
#pragma once

#include <memory>
#include <string>

#include "kernels/backend.h"
#include "models/parameters.h"
#include "nibble/engine.h"
#include "nibble/error.h"

namespace nibble {

/// A checkpoint directory or a synthetic model.
std::unique_ptr<ParameterSource> open_source(const std::string& model, std::uint64_t seed);

/// Throws `error` again, the model named in front where it is about a checkpoint's contents and does not say whose.
[[noreturn]] void rethrow_naming(const std::string& model, const Error& error);

/// What the options ask for, with what they leave open filled in from the source.
StoragePolicy resolve_policy(const LoadOptions& options, const ParameterSource& source);

/// How most linears are (or will be) kept.
Scheme linear_scheme(const StoragePolicy& policy, const ParameterSource& source);

/// Sizes of a session's memory, the context filled in from the configuration where it is 0. Throws
/// Error{kInvalidArgument} for impossible options.
struct SessionPlan {
  int context;
  int sequences;
  int step_rows;  ///< most tokens one forward pass reads
  int outputs;    ///< most rows of logits computed at once
  int widest;     ///< most columns an activation has
  int vocabulary;
  int head_dim;

  Extent extent() const { return {step_rows, widest, context, sequences, vocabulary, head_dim}; }
};
SessionPlan plan_session(const SessionOptions& options, const ModelConfig& config, Device device);

/// Bytes of a session's cache and of its workspace, host copies of logits and the backend's scratch included; and of
/// those logits.
std::uint64_t cache_bytes(const SessionPlan& plan, const ModelConfig& config, DType compute_dtype);
std::uint64_t workspace_bytes(const SessionPlan& plan, const ModelConfig& config, DType compute_dtype,
                              const LoadOptions& load);
std::uint64_t logits_bytes(const SessionPlan& plan, const ModelConfig& config);

/// "1234.5 MB", decimal.
std::string show_megabytes(std::uint64_t bytes);

/// Throws Error{kOutOfMemory} when `needed` is more than the device has left.
void require_memory(std::uint64_t needed, Device device, const std::string& what);

}  // namespace nibble
