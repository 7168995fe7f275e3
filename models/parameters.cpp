#include "models/parameters.h"

#include <algorithm>
#include <array>

#include "models/checkpoint/byte_size.h"
#include "nibble/error.h"

namespace nibble {
namespace {

using Kind = Parameter::Kind;

constexpr const char* kTokenTable = "decoder.embed_tokens";
constexpr const char* kHead = "lm_head";

bool is_16bit(DType dtype) { return dtype == DType::kF16 || dtype == DType::kBF16; }

constexpr std::string_view kLayers = "decoder.layers.";

std::string layer_name(int index) { return std::string(kLayers) + std::to_string(index); }

bool is_norm_parameter(std::string_view tensor) {
  return tensor.ends_with("layer_norm.weight") || tensor.ends_with("layer_norm.bias");
}
bool is_linear_bias(std::string_view tensor) { return tensor.ends_with(".bias") && !is_norm_parameter(tensor); }

/// Collects parameters; a linear and its bias, a LayerNorm and its two vectors.
class Lister {
 public:
  explicit Lister(const ModelConfig& config) : config_(config) {}

  void matrix(Kind kind, const std::string& name, int n, int k) { list_.push_back({kind, name, n, k}); }
  void vector(const std::string& name, int size) { list_.push_back({Kind::kVector, name, 1, size}); }

  void linear(const std::string& name, int n, int k) {
    matrix(Kind::kLinear, name, n, k);
    if (config_.enable_bias) vector(name + ".bias", n);
  }

  void layer_norm(const std::string& name) {
    if (!config_.layer_norm_elementwise_affine) return;
    vector(name + ".weight", config_.hidden_size);
    vector(name + ".bias", config_.hidden_size);
  }

  void layer(int index) {
    const std::string name = layer_name(index) + ".";
    const int hidden = config_.hidden_size;
    layer_norm(name + "self_attn_layer_norm");
    for (const char* projection : {"q_proj", "k_proj", "v_proj", "out_proj"}) {
      linear(name + "self_attn." + projection, hidden, hidden);
    }
    layer_norm(name + "final_layer_norm");
    linear(name + "fc1", config_.ffn_dim, hidden);
    linear(name + "fc2", hidden, config_.ffn_dim);
  }

  std::vector<Parameter> list() { return std::move(list_); }

 private:
  const ModelConfig& config_;
  std::vector<Parameter> list_;
};

/// Weights that are in 4 bits already keep their blocks. A group of int4 ends with its row.
void require_stored_blocksize(const StoragePolicy& policy, const Parameter& parameter, const Storage& stored) {
  if (!policy.blocksize || !is_4bit(stored.scheme)) return;
  const int asked = is_int4(stored.scheme) ? std::min(*policy.blocksize, parameter.k) : *policy.blocksize;
  if (asked == stored.blocksize) return;
  throw Error(ErrorKind::kInvalidArgument, "blocksize: expected " + std::to_string(stored.blocksize) + ", in which " +
                                               parameter.name + ".weight is quantized already, found " +
                                               std::to_string(*policy.blocksize));
}

}  // namespace

MemoryClass Parameter::memory_class() const {
  switch (kind) {
    case Kind::kLinear:
      return MemoryClass::kLinear;
    case Kind::kHead:
      return MemoryClass::kHead;
    case Kind::kVector:
      return MemoryClass::kOther;
    case Kind::kTokenTable:
    case Kind::kPositions:
      break;
  }
  return MemoryClass::kEmbedding;
}

ModelConfig resolve_config(const ParameterSource& source) {
  ModelConfig config = source.config();
  std::vector<std::string> tensors = source.tensors();
  std::erase_if(tensors, [](const std::string& tensor) { return !tensor.starts_with(kLayers); });
  config.enable_bias = std::ranges::any_of(tensors, is_linear_bias);
  config.layer_norm_elementwise_affine = std::ranges::any_of(tensors, is_norm_parameter);

  const auto fail = [&](const std::string& found) {
    throw Error(ErrorKind::kFormat,
                "config.json: num_hidden_layers: expected as many layers as the checkpoint has, found " +
                    std::to_string(config.num_hidden_layers) + " but " + found);
  };
  const std::string last = layer_name(config.num_hidden_layers - 1);
  const auto in_last = [&](const std::string& tensor) { return tensor.starts_with(last + "."); };
  if (std::ranges::none_of(tensors, in_last)) fail("no tensor of " + last);
  const std::string beyond = layer_name(config.num_hidden_layers) + ".fc1.weight";
  if (source.has(beyond)) fail("a tensor '" + beyond + "'");
  return config;
}

std::string token_table_name(const ParameterSource& source) {
  return source.has(std::string(kTokenTable) + ".weight") || !source.has(std::string(kHead) + ".weight") ? kTokenTable
                                                                                                         : kHead;
}

std::vector<Parameter> list_parameters(const ModelConfig& config, const ParameterSource& source) {
  const int hidden = config.hidden_size;
  const int embedding = config.word_embed_proj_dim;
  Lister lister(config);
  lister.matrix(Kind::kTokenTable, token_table_name(source), config.vocab_size, embedding);
  lister.matrix(Kind::kPositions, "decoder.embed_positions", config.max_position_embeddings + kPositionOffset, hidden);
  if (config.has_projection()) lister.matrix(Kind::kLinear, "decoder.project_in", hidden, embedding);
  for (int i = 0; i < config.num_hidden_layers; ++i) lister.layer(i);
  if (config.has_final_layer_norm()) lister.layer_norm("decoder.final_layer_norm");
  if (config.has_projection()) lister.matrix(Kind::kLinear, "decoder.project_out", embedding, hidden);
  if (!config.tie_word_embeddings) lister.matrix(Kind::kHead, kHead, config.vocab_size, embedding);
  return lister.list();
}

std::vector<Parameter> find_parameters(const ParameterSource& source) {
  std::vector<Parameter> parameters = list_parameters(resolve_config(source), source);
  for (const Parameter& parameter : parameters) {
    if (parameter.kind == Kind::kVector) {
      source.require(parameter.name);
      continue;
    }
    const MatrixInfo info = source.describe(parameter.name);
    if (info.n == parameter.n && info.k == parameter.k) continue;
    throw Error(ErrorKind::kFormat, "tensor '" + parameter.name + ".weight': expected " +
                                        shape_text(std::array<std::int64_t, 2>{parameter.n, parameter.k}) +
                                        " by config.json, found " +
                                        shape_text(std::array<std::int64_t, 2>{info.n, info.k}));
  }
  return parameters;
}

Storage target_storage(const StoragePolicy& policy, const Parameter& parameter, const Storage& stored) {
  const bool widening = policy.compute_dtype == DType::kF32 && is_16bit(stored.dtype);
  const Storage dense{Scheme::kNone, widening ? stored.dtype : policy.compute_dtype, 0};
  const Storage as_stored = stored.scheme == Scheme::kNone ? dense : stored;
  switch (parameter.kind) {
    case Kind::kLinear:
      if (!policy.scheme || *policy.scheme == stored.scheme) {
        require_stored_blocksize(policy, parameter, stored);
        return as_stored;
      }
      if (*policy.scheme == Scheme::kNone) return dense;
      return {*policy.scheme, policy.compute_dtype,
              is_4bit(*policy.scheme) ? policy.blocksize.value_or(default_blocksize(*policy.scheme)) : 0};
    case Kind::kTokenTable:
    case Kind::kHead:
      if (!policy.embedding) return as_stored;
      if (*policy.embedding == EmbeddingStorage::kCompute) return dense;
      return {Scheme::kInt8, policy.compute_dtype, 0};
    case Kind::kPositions:
    case Kind::kVector:
      break;
  }
  return dense;
}

Storage target_storage(const StoragePolicy& policy, const Parameter& parameter, const ParameterSource& source) {
  const Storage stored = source.describe(parameter.name).storage;
  const Storage target = target_storage(policy, parameter, stored);
  require_convertible(stored, target, parameter.name + ".weight");
  return target;
}

MemoryLedger predict_weights(const ParameterSource& source, const StoragePolicy& policy) {
  MemoryLedger ledger;
  const std::uint64_t element = size_of(policy.compute_dtype);
  for (const Parameter& parameter : find_parameters(source)) {
    const auto elements = static_cast<std::uint64_t>(parameter.elements());
    ledger.parameters += elements;
    if (parameter.kind == Kind::kVector) {
      ledger[MemoryClass::kOther] += elements * element;
      ledger.huggingface += elements * element;
      continue;
    }
    const Storage storage = target_storage(policy, parameter, source);
    const StorageBytes bytes = storage_bytes(storage, parameter.n, parameter.k);
    ledger[parameter.memory_class()] += bytes.codes;
    ledger[MemoryClass::kQuantState] += bytes.state;
    const bool quantized = storage.scheme != Scheme::kNone;
    ledger.huggingface += quantized ? bytes.codes : elements * element;
  }
  return ledger;
}

}  // namespace nibble
