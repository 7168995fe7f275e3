#include "runtime/loading.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include "models/opt.h"
#include "nibble/error.h"

namespace nibble {
namespace {

/// Rows of one prefill step: enough that each weight decoded serves many rows, few enough that the activations stay in
/// the cache and the workspace small.
int prefill_rows(Device device) { return device == Device::kCuda ? 2048 : 512; }
/// Rows of logits at once where every position is asked for.
constexpr int kOutputs = 32;
/// A step has a row for each, and a grid of a GPU no more rows.
constexpr int kMostSequences = 65535;

}  // namespace

std::unique_ptr<ParameterSource> open_source(const std::string& model, std::uint64_t seed) {
  return is_synthetic(model) ? make_synthetic_source(model, seed) : open_checkpoint_source(model);
}

void rethrow_naming(const std::string& model, const Error& error) {
  const std::string sentence = error.what();
  if (error.kind() != ErrorKind::kFormat || sentence.starts_with(model)) throw error;
  throw Error(error.kind(), model + ": " + sentence);
}

StoragePolicy resolve_policy(const LoadOptions& options, const ParameterSource& source) {
  if (options.blocksize) check_blocksize(*options.blocksize);
  const DType compute_dtype = options.compute_dtype.value_or(source.config().dtype.value_or(DType::kF32));
  if (compute_dtype != DType::kF32 && compute_dtype != DType::kF16 && compute_dtype != DType::kBF16) {
    throw Error(ErrorKind::kInvalidArgument,
                "compute dtype: expected fp32, fp16 or bf16, found " + std::string(to_string(compute_dtype)));
  }
  StoragePolicy policy{options.scheme, compute_dtype, options.embedding, options.blocksize};
  // A checkpoint of plain weights may still ask to be quantized as it is loaded.
  if (!policy.scheme && linear_scheme(policy, source) == Scheme::kNone) policy.scheme = source.config().scheme;
  if (options.int8_activations && options.device != Device::kCpu) {
    throw Error(ErrorKind::kInvalidArgument,
                "8-bit activations: expected device cpu, found " + std::string(to_string(options.device)));
  }
  if (options.int8_activations && linear_scheme(policy, source) != Scheme::kInt8) {
    throw Error(ErrorKind::kInvalidArgument, "8-bit activations: expected weights of scheme int8, found " +
                                                 std::string(to_string(linear_scheme(policy, source))));
  }
  return policy;
}

Scheme linear_scheme(const StoragePolicy& policy, const ParameterSource& source) {
  return policy.scheme.value_or(source.describe("decoder.layers.0.fc1").storage.scheme);
}

SessionPlan plan_session(const SessionOptions& options, const ModelConfig& config, Device device) {
  const int most = config.max_position_embeddings;
  if (options.context < 0 || options.context > most) {
    throw Error(ErrorKind::kInvalidArgument, "context: expected 0 to " + std::to_string(most) +
                                                 " tokens, as the model was made for, found " +
                                                 std::to_string(options.context));
  }
  if (options.sequences < 1 || options.sequences > kMostSequences) {
    throw Error(ErrorKind::kInvalidArgument, "sequences: expected 1 to " + std::to_string(kMostSequences) + ", found " +
                                                 std::to_string(options.sequences));
  }
  const int context = options.context == 0 ? most : options.context;
  const int step_rows = std::max(options.sequences, std::min(context, prefill_rows(device)));
  const int outputs = std::max(options.sequences, std::min(context, kOutputs));
  const int widest = std::max({config.hidden_size, config.ffn_dim, config.word_embed_proj_dim});
  return {context, options.sequences, step_rows, outputs, widest, config.vocab_size, config.head_dim()};
}

std::uint64_t cache_bytes(const SessionPlan& plan, const ModelConfig& config, DType compute_dtype) {
  return KvCache::bytes(compute_dtype, config.num_hidden_layers, plan.sequences, config.num_attention_heads,
                        plan.context, config.head_dim());
}

std::uint64_t workspace_bytes(const SessionPlan& plan, const ModelConfig& config, DType compute_dtype,
                              const LoadOptions& load) {
  return OptModel::activation_bytes(config, compute_dtype, plan.step_rows) +
         OptModel::result_bytes(config, compute_dtype, plan.outputs) + logits_bytes(plan, config) +
         scratch_bytes(load.device, load.threads, plan.extent());
}

std::uint64_t logits_bytes(const SessionPlan& plan, const ModelConfig& config) {
  return static_cast<std::uint64_t>(plan.outputs) * static_cast<std::uint64_t>(config.vocab_size) * sizeof(float);
}

std::string show_megabytes(std::uint64_t bytes) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.1f MB", static_cast<double>(bytes) / 1e6);
  return text.data();
}

void require_memory(std::uint64_t needed, Device device, const std::string& what) {
  const std::uint64_t available = available_memory(device);
  if (needed <= available) return;
  throw Error(ErrorKind::kOutOfMemory, what + " needs " + show_megabytes(needed) + ", but the " +
                                           std::string(to_string(device)) + " has " + show_megabytes(available) +
                                           " left");
}

}  // namespace nibble
