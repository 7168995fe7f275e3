// The OPT architecture (arXiv:2205.01068) with its variants, as transformers' modeling_opt.py computes it: pre- and
// post-norm, projected embeddings (350m), Galactica's GELU without biases. A difference between variants is a value of
// ModelConfig; a decoder of another shape would be another file beside this one.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "kernels/backend.h"
#include "models/parameters.h"
#include "nibble/progress.h"

namespace nibble {

/// Immutable once loaded; several threads may call it, each with its own backend, cache and workspace.
class OptModel {
 public:
  /// Loads the parameters of `source`, as `policy` says, onto the backend's device. Throws Error.
  static OptModel load(const ParameterSource& source, const StoragePolicy& policy, Backend& backend,
                       const Progress& progress);

  const ModelConfig& config() const { return config_; }
  DType compute_dtype() const { return compute_dtype_; }

  /// Reads the batch into the cache and returns the last layer's results [rows, hidden_size]; they stand in
  /// `activations` until the next call.
  Tensor forward(Backend& backend, const Batch& batch, KvCache& cache, Buffer& activations) const;

  /// The rows of what `forward` returned that are the batch's outputs.
  Tensor outputs(Backend& backend, const Batch& batch, Tensor hidden, Buffer& results) const;

  /// Logits [rows, vocab_size] of rows that `forward` or `outputs` returned, rounded to the compute dtype as
  /// transformers' are; they stand in `results` until the next call.
  Tensor logits(Backend& backend, Tensor hidden, Buffer& results) const;
  /// Where the last call left them.
  Tensor logits_in(Buffer& results, std::size_t rows) const;

  /// Bytes that `activations` must have for batches of so many rows, and `results` for so many outputs.
  static std::uint64_t activation_bytes(const ModelConfig& config, DType compute_dtype, int rows);
  static std::uint64_t result_bytes(const ModelConfig& config, DType compute_dtype, int outputs);

  /// A kind of work that a step does in every layer, or once.
  struct Kernel {
    std::string_view name;
    int n, k;                   ///< of a linear, or of all linears of one input; of attention heads and their size
    int times;                  ///< in a step
    std::uint64_t bytes;        ///< of the weights that are read each time, with their state
    std::function<void()> run;  ///< all times, on what `forward` left in the activations
  };
  /// All of them for a batch of `rows` tokens that has begun, of which `outputs` are. What is passed must outlive them.
  std::vector<Kernel> kernels(Backend& backend, int rows, int outputs, KvCache& cache, Buffer& activations,
                              Buffer& results) const;

  /// The linears of a layer and of the head; of those that are projected together the first.
  struct NamedLinear {
    std::string_view name;
    const Weight& weight;
    int together;  ///< weights like this one, projected together
  };
  std::vector<NamedLinear> linears() const;

  /// The parameters' bytes by class as they are in memory, and what transformers would report for them.
  const MemoryLedger& ledger() const { return ledger_; }

 private:
  /// Every layer is two blocks, attention and feed-forward, each of the shape x = residual + f(input). A norm stands
  /// before a block, and in post-norm models, whose norms stand behind blocks, that is the norm of the block before.
  struct Layer {
    std::optional<LayerNorm> attention_norm;
    Linear q, k, v, out;
    std::optional<LayerNorm> ffn_norm;
    Linear fc1, fc2;
  };
  class Loader;
  struct Activations;
  struct Results;

  /// The two blocks, in pieces. What the first piece returns is the `input` of the last, its residual in post-norm
  /// models.
  Tensor project_qkv(Backend& backend, const Layer& layer, const Activations& a) const;
  void attend(Backend& backend, int layer, KvCache& cache, const Activations& a) const;
  void project_attended(Backend& backend, const Layer& layer, Tensor input, const Activations& a) const;
  Tensor expand(Backend& backend, const Layer& layer, const Activations& a) const;
  void contract(Backend& backend, const Layer& layer, Tensor input, const Activations& a) const;

  ModelConfig config_;
  DType compute_dtype_;
  MemoryLedger ledger_;
  Weight tokens_;     ///< [vocab_size, word_embed_proj_dim]
  Weight positions_;  ///< [max_position_embeddings + 2, hidden_size]
  std::optional<Linear> project_in_, project_out_;
  std::vector<Layer> layers_;
  std::optional<LayerNorm> last_norm_;
  Linear head_;  ///< shares the token table's memory when tied
};

}  // namespace nibble
