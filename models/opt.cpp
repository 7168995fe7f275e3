#include "models/opt.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>

#include "kernels/dispatch.h"
#include "nibble/error.h"

namespace nibble {

namespace {

/// Hands out matrices of `rows` rows, one behind the other. A null `base` only counts bytes.
class Places {
 public:
  Places(DType dtype, int rows, std::byte* base) : dtype_(dtype), rows_(rows), base_(base) {}

  Tensor next(int cols) {
    const Tensor tensor{base_ == nullptr ? nullptr : base_ + offset_, dtype_, rows_, cols};
    offset_ += (tensor.bytes() + kAlignment - 1) / kAlignment * kAlignment;
    return tensor;
  }
  std::size_t offset() const { return offset_; }
  void go_to(std::size_t offset) { offset_ = offset; }

 private:
  static constexpr std::size_t kAlignment = 256;  // a memory transaction of any device

  DType dtype_;
  int rows_;
  std::byte* base_;
  std::size_t offset_ = 0;
};

}  // namespace

/// Where a step's intermediate results stand. H = hidden_size, F = ffn_dim, E = word_embed_proj_dim.
struct OptModel::Activations {
  Tensor embedding;   ///< [rows, E], where it is projected
  Tensor stream;      ///< [rows, H], what every block adds to
  Tensor normed;      ///< [rows, H]
  Tensor q, k, v;     ///< [rows, H]
  Tensor attended;    ///< [rows, H]
  Tensor inner;       ///< [rows, F], in the place of q, k, v and attended
  std::size_t bytes;  ///< of all of them

  Activations(const ModelConfig& config, DType dtype, int rows, std::byte* base) {
    Places places(dtype, rows, base);
    embedding = places.next(config.has_projection() ? config.word_embed_proj_dim : 0);
    stream = places.next(config.hidden_size);
    normed = places.next(config.hidden_size);
    const std::size_t shared = places.offset();
    q = places.next(config.hidden_size);
    k = places.next(config.hidden_size);
    v = places.next(config.hidden_size);
    attended = places.next(config.hidden_size);
    bytes = places.offset();
    places.go_to(shared);
    inner = places.next(config.ffn_dim);
    bytes = std::max(bytes, places.offset());
  }
};

/// Where the outputs of a step stand on their way to logits.
struct OptModel::Results {
  Tensor outputs;    ///< [outputs, H]
  Tensor normed;     ///< [outputs, H]
  Tensor projected;  ///< [outputs, E], where they are projected back
  Tensor logits;     ///< [outputs, vocab_size]
  std::size_t bytes;

  Results(const ModelConfig& config, DType dtype, int rows, std::byte* base) {
    Places places(dtype, rows, base);
    outputs = places.next(config.hidden_size);
    normed = places.next(config.hidden_size);
    projected = places.next(config.has_projection() ? config.word_embed_proj_dim : 0);
    logits = places.next(config.vocab_size);
    bytes = places.offset();
  }
};

/// Fetches parameters in the order of list_parameters and keeps the ledger.
class OptModel::Loader {
 public:
  Loader(const ParameterSource& source, const StoragePolicy& policy, Backend& backend, const Progress& progress,
         OptModel& model)
      : source_(source), policy_(policy), backend_(backend), progress_(progress), model_(model) {
    const MemoryLedger predicted = predict_weights(source, policy);
    total_ = predicted.weights();
    model.ledger_.parameters = predicted.parameters;
    for (const Parameter& parameter : find_parameters(source)) parameters_.emplace(parameter.name, parameter);
    constexpr std::size_t kMostBuffers = 3;  // of a matrix: codes, absmax and their absmax
    backend_.make_room(total_, kMostBuffers * parameters_.size());
  }

  Weight matrix(const std::string& name) {
    const Parameter& parameter = parameters_.at(name);
    const Storage target = target_storage(policy_, parameter, source_.describe(name).storage);
    Weight weight = source_.matrix(name, target, backend_);
    account(parameter, weight);
    return weight;
  }

  Buffer vector(const std::string& name) {
    const auto it = parameters_.find(name);
    if (it == parameters_.end()) return {};
    const std::vector<float> values = source_.vector(name, it->second.k);
    Buffer buffer = Buffer::allocate(values.size() * size_of(policy_.compute_dtype));
    with_dtype(policy_.compute_dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      auto* rounded = buffer.mutable_as<T>();
      std::ranges::transform(values, rounded, [](float value) { return round_to<T>(value); });
      const bool finite =
          std::all_of(rounded, rounded + values.size(), [](T value) { return std::isfinite(to_float(value)); });
      if (!finite) {
        throw Error(ErrorKind::kFormat, name + ": expected finite values, found a NaN or an infinity among them");
      }
    });
    model_.ledger_[MemoryClass::kOther] += buffer.size();
    model_.ledger_.huggingface += buffer.size();
    report();
    return backend_.upload(buffer);
  }

  Linear linear(const std::string& name) { return {matrix(name), vector(name + ".bias")}; }
  LayerNorm layer_norm(const std::string& name) {
    return {vector(name + ".weight"), vector(name + ".bias"), model_.config_.hidden_size};
  }

  /// All layers and the norm after them. `pending` is the norm of the block before, where that stands behind it.
  void layers() {
    const ModelConfig& config = model_.config_;
    std::optional<LayerNorm> pending;
    for (int i = 0; i < config.num_hidden_layers; ++i) {
      const std::string name = "decoder.layers." + std::to_string(i) + ".";
      const std::string attention = name + "self_attn.";
      LayerNorm attention_norm = layer_norm(name + "self_attn_layer_norm");
      Linear q = linear(attention + "q_proj"), k = linear(attention + "k_proj"), v = linear(attention + "v_proj");
      Linear out = linear(attention + "out_proj");
      LayerNorm ffn_norm = layer_norm(name + "final_layer_norm");
      Linear fc1 = linear(name + "fc1"), fc2 = linear(name + "fc2");
      const bool pre_norm = config.do_layer_norm_before;
      model_.layers_.push_back({pre_norm ? attention_norm : pending, std::move(q), std::move(k), std::move(v),
                                std::move(out), pre_norm ? ffn_norm : attention_norm, std::move(fc1), std::move(fc2)});
      if (!pre_norm) pending = ffn_norm;
    }
    if (config.has_final_layer_norm()) pending = layer_norm("decoder.final_layer_norm");
    model_.last_norm_ = pending;
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
    report();
  }

  void report() const {
    if (progress_) progress_(model_.ledger_.weights(), total_);
  }

  const ParameterSource& source_;
  const StoragePolicy& policy_;
  Backend& backend_;
  const Progress& progress_;
  OptModel& model_;
  std::map<std::string, Parameter> parameters_;
  std::uint64_t total_ = 0;
};

OptModel OptModel::load(const ParameterSource& source, const StoragePolicy& policy, Backend& backend,
                        const Progress& progress) {
  OptModel model;
  model.config_ = resolve_config(source);
  model.compute_dtype_ = policy.compute_dtype;
  const ModelConfig& config = model.config_;

  Loader loader(source, policy, backend, progress, model);
  model.tokens_ = loader.matrix(token_table_name(source));
  model.positions_ = loader.matrix("decoder.embed_positions");
  if (config.has_projection()) model.project_in_ = loader.linear("decoder.project_in");
  loader.layers();
  if (config.has_projection()) model.project_out_ = loader.linear("decoder.project_out");
  model.head_ = {config.tie_word_embeddings ? model.tokens_ : loader.matrix("lm_head"), {}};
  backend.wait();
  return model;
}

namespace {

/// Projections of x, or of norm(x) where a block has a norm before it. Returns what was projected.
Tensor project(Backend& backend, const std::optional<LayerNorm>& norm, Tensor x, Tensor normed,
               std::initializer_list<Projection> projections) {
  if (!norm) {
    backend.project(x, projections);
    return x;
  }
  backend.project(*norm, x, normed, projections);
  return normed;
}

}  // namespace

Tensor OptModel::forward(Backend& backend, const Batch& batch, KvCache& cache, Buffer& activations) const {
  const auto rows = static_cast<int>(batch.tokens.size());
  const Activations a(config_, compute_dtype_, rows, activations.mutable_as<std::byte>());
  backend.embed(tokens_, project_in_ ? a.embedding : a.stream);
  if (project_in_) project(backend, {}, a.embedding, {}, {{*project_in_, a.stream}});
  backend.add_positions(positions_, kPositionOffset, a.stream);
  for (int layer = 0; layer < config_.num_hidden_layers; ++layer) {
    const Layer& each = layers_[static_cast<std::size_t>(layer)];
    const Tensor attention_input = project_qkv(backend, each, a);
    attend(backend, layer, cache, a);
    project_attended(backend, each, attention_input, a);
    contract(backend, each, expand(backend, each, a), a);
  }
  return a.stream;
}

Tensor OptModel::project_qkv(Backend& backend, const Layer& layer, const Activations& a) const {
  // transformers scales q, bias included, and not the scores.
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config_.head_dim())));
  return project(backend, layer.attention_norm, a.stream, a.normed,
                 {{layer.q, a.q, {.scale = scale}}, {layer.k, a.k}, {layer.v, a.v}});
}

void OptModel::attend(Backend& backend, int layer, KvCache& cache, const Activations& a) const {
  backend.attend(a.q, a.k, a.v, layer, cache, a.attended);
}

void OptModel::project_attended(Backend& backend, const Layer& layer, Tensor input, const Activations& a) const {
  const Tensor residual = config_.do_layer_norm_before ? a.stream : input;
  project(backend, {}, a.attended, {}, {{layer.out, a.stream, {.residual = residual}}});
}

Tensor OptModel::expand(Backend& backend, const Layer& layer, const Activations& a) const {
  return project(backend, layer.ffn_norm, a.stream, a.normed,
                 {{layer.fc1, a.inner, {.activation = config_.activation_function}}});
}

void OptModel::contract(Backend& backend, const Layer& layer, Tensor input, const Activations& a) const {
  const Tensor residual = config_.do_layer_norm_before ? a.stream : input;
  project(backend, {}, a.inner, {}, {{layer.fc2, a.stream, {.residual = residual}}});
}

std::vector<OptModel::Kernel> OptModel::kernels(Backend& backend, int rows, int outputs, KvCache& cache,
                                                Buffer& activations, Buffer& results) const {
  const Activations a(config_, compute_dtype_, rows, activations.mutable_as<std::byte>());
  const auto bytes = [](std::initializer_list<const Linear*> linears) {
    std::uint64_t sum = 0;
    for (const Linear* linear : linears) sum += code_bytes(linear->weight) + state_bytes(linear->weight);
    return sum;
  };
  const auto each_layer = [this](auto&& run) {
    return [this, run] {
      for (int i = 0; i < config_.num_hidden_layers; ++i) run(layers_[static_cast<std::size_t>(i)], i);
    };
  };
  const Layer& first = layers_.front();
  const int hidden = config_.hidden_size, inner = config_.ffn_dim, layers = config_.num_hidden_layers;
  std::vector<Kernel> kernels;
  kernels.push_back({"qkv", 3 * hidden, hidden, layers, bytes({&first.q, &first.k, &first.v}),
                     each_layer([=, this, &backend](const Layer& layer, int) { project_qkv(backend, layer, a); })});
  kernels.push_back({"attention", config_.num_attention_heads, config_.head_dim(), layers, 0,
                     each_layer([=, this, &backend, &cache](const Layer&, int i) { attend(backend, i, cache, a); })});
  kernels.push_back(
      {"out", hidden, hidden, layers, bytes({&first.out}),
       each_layer([=, this, &backend](const Layer& layer, int) { project_attended(backend, layer, a.normed, a); })});
  kernels.push_back({"fc1", inner, hidden, layers, bytes({&first.fc1}),
                     each_layer([=, this, &backend](const Layer& layer, int) { expand(backend, layer, a); })});
  kernels.push_back(
      {"fc2", hidden, inner, layers, bytes({&first.fc2}),
       each_layer([=, this, &backend](const Layer& layer, int) { contract(backend, layer, a.normed, a); })});
  kernels.push_back({"head", config_.vocab_size, project_out_ ? config_.word_embed_proj_dim : hidden, 1,
                     bytes({&head_}) + (project_out_ ? bytes({&*project_out_}) : 0),
                     [=, this, &backend, &results] { logits(backend, a.stream.slice(0, outputs), results); }});
  return kernels;
}

std::vector<OptModel::NamedLinear> OptModel::linears() const {
  const Layer& first = layers_.front();
  std::vector<NamedLinear> linears = {{"q, k, v", first.q.weight, 3},
                                      {"out", first.out.weight, 1},
                                      {"fc1", first.fc1.weight, 1},
                                      {"fc2", first.fc2.weight, 1},
                                      {"head", head_.weight, 1}};
  if (project_in_) linears.push_back({"project_in", project_in_->weight, 1});
  if (project_out_) linears.push_back({"project_out", project_out_->weight, 1});
  return linears;
}

Tensor OptModel::outputs(Backend& backend, const Batch& batch, Tensor hidden, Buffer& results) const {
  if (batch.outputs.size() == batch.tokens.size()) return hidden;  // all, which steps have in order
  const Results r(config_, compute_dtype_, static_cast<int>(batch.outputs.size()), results.mutable_as<std::byte>());
  backend.gather_outputs(hidden, r.outputs);
  return r.outputs;
}

Tensor OptModel::logits(Backend& backend, Tensor hidden, Buffer& results) const {
  const Results r(config_, compute_dtype_, hidden.rows, results.mutable_as<std::byte>());
  const Linear& first = project_out_ ? *project_out_ : head_;
  const Tensor y = project_out_ ? r.projected : r.logits;
  if (last_norm_) {
    backend.linear(*last_norm_, first, hidden, r.normed, y);
  } else {
    backend.linear(first, hidden, y);
  }
  if (project_out_) backend.linear(head_, r.projected, r.logits);
  return r.logits;
}

Tensor OptModel::logits_in(Buffer& results, std::size_t rows) const {
  return Results(config_, compute_dtype_, static_cast<int>(rows), results.mutable_as<std::byte>()).logits;
}

std::uint64_t OptModel::activation_bytes(const ModelConfig& config, DType compute_dtype, int rows) {
  return Activations(config, compute_dtype, rows, nullptr).bytes;
}

std::uint64_t OptModel::result_bytes(const ModelConfig& config, DType compute_dtype, int outputs) {
  return Results(config, compute_dtype, outputs, nullptr).bytes;
}

}  // namespace nibble
