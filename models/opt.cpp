#include "models/opt.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>

#include "kernels/dispatch.h"
#include "nibble/error.h"

namespace nibble {

/// Where a step's intermediate results stand in the workspace. H = hidden_size, F = ffn_dim, E = word_embed_proj_dim.
struct OptModel::Activations {
  Tensor embedding;   ///< [rows, E]; later the projected result
  Tensor residual;    ///< [rows, H], the stream every block adds to
  Tensor normed;      ///< [rows, H]
  Tensor q, k, v;     ///< [rows, H]
  Tensor attended;    ///< [rows, H]
  Tensor inner;       ///< [rows, F], in the place of q, k, v and attended
  std::size_t bytes;  ///< of all of them

  Activations(const ModelConfig& config, DType dtype, int rows, std::byte* base) {
    std::size_t offset = 0;
    const auto place = [&](int cols) {
      const Tensor tensor{base == nullptr ? nullptr : base + offset, dtype, rows, cols};
      offset += (tensor.bytes() + 63) / 64 * 64;
      return tensor;
    };
    embedding = place(config.word_embed_proj_dim);
    residual = place(config.hidden_size);
    normed = place(config.hidden_size);
    const std::size_t shared = offset;
    q = place(config.hidden_size);
    k = place(config.hidden_size);
    v = place(config.hidden_size);
    attended = place(config.hidden_size);
    const std::size_t after_attention = offset;
    offset = shared;
    inner = place(config.ffn_dim);
    bytes = std::max(after_attention, offset);
  }
};

/// Fetches parameters in the order of list_parameters and keeps the ledger.
class OptModel::Loader {
 public:
  Loader(const ParameterSource& source, const StoragePolicy& policy, Backend& backend, ThreadPool& pool,
         const LoadProgress& progress, OptModel& model)
      : source_(source), policy_(policy), backend_(backend), pool_(pool), progress_(progress), model_(model) {
    const MemoryLedger predicted = predict_weights(source, policy);
    total_ = predicted.weights();
    model.ledger_.parameters = predicted.parameters;
    for (const Parameter& parameter : list_parameters(model.config_, source))
      parameters_.emplace(parameter.name, parameter);
  }

  Weight matrix(const std::string& name) {
    const Parameter& parameter = parameters_.at(name);
    const MatrixInfo info = source_.describe(name);
    if (info.n != parameter.n || info.k != parameter.k) {
      throw Error(ErrorKind::kFormat, "tensor '" + name + ".weight': expected " +
                                          show_shape({parameter.n, parameter.k}) + " by config.json, found " +
                                          show_shape({info.n, info.k}));
    }
    const Storage target = target_storage(policy_, parameter, info.storage);
    Weight weight = backend_.prepare(source_.matrix(name, target, pool_));
    account(parameter, weight);
    return weight;
  }

  Buffer vector(const std::string& name) {
    const auto it = parameters_.find(name);
    if (it == parameters_.end()) return {};
    if (!source_.has(name)) {
      throw Error(ErrorKind::kFormat, "the checkpoint has no tensor '" + name + "', though it has others of its kind");
    }
    const std::vector<float> values = source_.vector(name, it->second.k);
    Buffer buffer = Buffer::allocate(values.size() * size_of(policy_.compute_dtype));
    with_dtype(policy_.compute_dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      std::ranges::transform(values, buffer.mutable_as<T>(), [](float value) { return round_to<T>(value); });
    });
    model_.ledger_[MemoryClass::kOther] += buffer.size();
    model_.ledger_.huggingface += buffer.size();
    return backend_.upload(buffer);
  }

  Linear linear(const std::string& name) { return {matrix(name), vector(name + ".bias")}; }
  LayerNorm layer_norm(const std::string& name) {
    return {vector(name + ".weight"), vector(name + ".bias"), model_.config_.hidden_size};
  }

  Layer layer(int index) {
    const std::string name = "decoder.layers." + std::to_string(index) + ".";
    const std::string attention = name + "self_attn.";
    return {layer_norm(name + "self_attn_layer_norm"),
            linear(attention + "q_proj"),
            linear(attention + "k_proj"),
            linear(attention + "v_proj"),
            linear(attention + "out_proj"),
            layer_norm(name + "final_layer_norm"),
            linear(name + "fc1"),
            linear(name + "fc2")};
  }

 private:
  void account(const Parameter& parameter, const Weight& weight) {
    MemoryLedger& ledger = model_.ledger_;
    const std::uint64_t codes = code_bytes(weight);
    ledger[parameter.memory_class()] += codes;
    ledger[MemoryClass::kQuantState] += state_bytes(weight);
    const bool quantized = storage_of(weight, policy_.compute_dtype).scheme != Scheme::kNone;
    ledger.huggingface +=
        quantized ? codes : static_cast<std::uint64_t>(parameter.elements()) * size_of(policy_.compute_dtype);
    if (progress_) progress_(ledger.weights(), total_);
  }

  const ParameterSource& source_;
  const StoragePolicy& policy_;
  Backend& backend_;
  ThreadPool& pool_;
  const LoadProgress& progress_;
  OptModel& model_;
  std::map<std::string, Parameter> parameters_;
  std::uint64_t total_ = 0;
};

OptModel OptModel::load(const ParameterSource& source, const StoragePolicy& policy, Backend& backend, ThreadPool& pool,
                        const LoadProgress& progress) {
  OptModel model;
  model.config_ = resolve_config(source);
  model.compute_dtype_ = policy.compute_dtype;
  const ModelConfig& config = model.config_;

  Loader loader(source, policy, backend, pool, progress, model);
  model.tokens_ = loader.matrix(token_table_name(source));
  model.positions_ = loader.matrix("decoder.embed_positions");
  if (config.has_projection()) model.project_in_ = loader.linear("decoder.project_in");
  for (int i = 0; i < config.num_hidden_layers; ++i) model.layers_.push_back(loader.layer(i));
  if (config.has_final_layer_norm()) model.final_norm_ = loader.layer_norm("decoder.final_layer_norm");
  if (config.has_projection()) model.project_out_ = loader.linear("decoder.project_out");
  model.head_ = {config.tie_word_embeddings ? model.tokens_ : loader.matrix("lm_head"), {}};
  return model;
}

Tensor OptModel::forward(Backend& backend, const Batch& batch, KvCache& cache, Buffer& workspace) const {
  const auto rows = static_cast<int>(batch.tokens.size());
  const Activations a(config_, compute_dtype_, rows, workspace.mutable_as<std::byte>());

  std::vector<int> position_rows(batch.positions.begin(), batch.positions.end());
  for (int& row : position_rows) row += kPositionOffset;
  backend.embed(tokens_, batch.tokens, project_in_ ? a.embedding : a.residual);
  if (project_in_) backend.linear(*project_in_, a.embedding, a.residual);
  backend.add_embedding(positions_, position_rows, a.residual);

  for (int layer = 0; layer < config_.num_hidden_layers; ++layer) {
    attention(backend, batch, layer, cache, a);
    feed_forward(backend, layers_[static_cast<std::size_t>(layer)], a);
  }

  if (final_norm_) backend.layer_norm(*final_norm_, a.residual, a.residual);
  if (!project_out_) return a.residual;
  backend.linear(*project_out_, a.residual, a.embedding);
  return a.embedding;
}

void OptModel::attention(Backend& backend, const Batch& batch, int index, KvCache& cache, const Activations& a) const {
  const Layer& layer = layers_[static_cast<std::size_t>(index)];
  const bool pre_norm = config_.do_layer_norm_before;
  if (pre_norm) backend.layer_norm(layer.attention_norm, a.residual, a.normed);
  const Tensor x = pre_norm ? a.normed : a.residual;

  // transformers scales q, bias included, and not the scores.
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config_.head_dim())));
  backend.linear(layer.q, x, a.q, {.scale = scale});
  backend.linear(layer.k, x, a.k);
  backend.linear(layer.v, x, a.v);
  backend.attend(a.q, a.k, a.v, batch.segments, index, cache, a.attended);
  backend.linear(layer.out, a.attended, a.residual, {.residual = a.residual});

  if (!pre_norm) backend.layer_norm(layer.attention_norm, a.residual, a.residual);
}

void OptModel::feed_forward(Backend& backend, const Layer& layer, const Activations& a) const {
  const bool pre_norm = config_.do_layer_norm_before;
  if (pre_norm) backend.layer_norm(layer.ffn_norm, a.residual, a.normed);
  const Tensor x = pre_norm ? a.normed : a.residual;

  backend.linear(layer.fc1, x, a.inner, {.activation = config_.activation_function});
  backend.linear(layer.fc2, a.inner, a.residual, {.residual = a.residual});

  if (!pre_norm) backend.layer_norm(layer.ffn_norm, a.residual, a.residual);
}

void OptModel::logits(Backend& backend, Tensor hidden, std::span<const int> rows, Buffer& workspace,
                      std::span<float> values) const {
  // Behind the activations of the forward pass that `hidden` is one of.
  std::byte* base =
      workspace.mutable_as<std::byte>() + Activations(config_, compute_dtype_, hidden.rows, nullptr).bytes;
  const auto count = static_cast<int>(rows.size());
  const Tensor gathered{base, compute_dtype_, count, hidden.cols};
  const Tensor result{base + (gathered.bytes() + 63) / 64 * 64, compute_dtype_, count, config_.vocab_size};
  backend.gather_rows(hidden, rows, gathered);
  backend.linear(head_, gathered, result);
  backend.copy_to_host(result, values);
}

std::uint64_t OptModel::workspace_bytes(const ModelConfig& config, DType compute_dtype, int rows, int logit_rows) {
  const Tensor gathered{nullptr, compute_dtype, logit_rows, config.word_embed_proj_dim};
  const Tensor result{nullptr, compute_dtype, logit_rows, config.vocab_size};
  return Activations(config, compute_dtype, rows, nullptr).bytes + (gathered.bytes() + 63) / 64 * 64 + result.bytes();
}

}  // namespace nibble
