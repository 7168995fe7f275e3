// The OPT architecture (arXiv:2205.01068) with its variants, as transformers' modeling_opt.py computes it: pre- and
// post-norm, projected embeddings (350m), Galactica's GELU without biases. A difference between variants is a value of
// ModelConfig; a decoder of another shape would be another file beside this one.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "models/parameters.h"

namespace nibble {

/// Tokens of one step, in rows, grouped by sequence.
struct Batch {
  std::span<const int> tokens;        ///< [rows]
  std::span<const int> positions;     ///< [rows], from 0 in each sequence
  std::span<const Segment> segments;  ///< cover the rows in order
};

/// Called with bytes loaded and bytes in all.
using LoadProgress = std::function<void(std::uint64_t done, std::uint64_t total)>;

/// Immutable once loaded; several threads may call it, each with its own backend, cache and workspace.
class OptModel {
 public:
  /// Loads the parameters of `source`, as `policy` says, onto the backend's device. Throws Error.
  static OptModel load(const ParameterSource& source, const StoragePolicy& policy, Backend& backend, ThreadPool& pool,
                       const LoadProgress& progress);

  const ModelConfig& config() const { return config_; }
  DType compute_dtype() const { return compute_dtype_; }

  /// Reads the batch into the cache and returns the final hidden states [rows, word_embed_proj_dim]; they stand in the
  /// workspace until the next call.
  Tensor forward(Backend& backend, const Batch& batch, KvCache& cache, Buffer& workspace) const;

  /// Logits of some rows of what `forward` returned, rounded to the compute dtype as transformers' are and widened:
  /// `values` is fp32 [rows.size(), vocab_size].
  void logits(Backend& backend, Tensor hidden, std::span<const int> rows, Buffer& workspace,
              std::span<float> values) const;

  /// Bytes of workspace that `forward` of so many rows and `logits` of so many rows need.
  static std::uint64_t workspace_bytes(const ModelConfig& config, DType compute_dtype, int rows, int logit_rows);

  /// The parameters' bytes by class as they are in memory, and what transformers would report for them.
  const MemoryLedger& ledger() const { return ledger_; }

 private:
  struct Layer {
    LayerNorm attention_norm;
    Linear q, k, v, out;
    LayerNorm ffn_norm;
    Linear fc1, fc2;
  };
  class Loader;
  struct Activations;

  void attention(Backend& backend, const Batch& batch, int layer, KvCache& cache, const Activations& a) const;
  void feed_forward(Backend& backend, const Layer& layer, const Activations& a) const;

  ModelConfig config_;
  DType compute_dtype_;
  MemoryLedger ledger_;
  Weight tokens_;     ///< [vocab_size, word_embed_proj_dim]
  Weight positions_;  ///< [max_position_embeddings + 2, hidden_size]
  std::optional<Linear> project_in_, project_out_;
  std::vector<Layer> layers_;
  std::optional<LayerNorm> final_norm_;
  Linear head_;  ///< shares the token table's memory when tied
};

}  // namespace nibble
