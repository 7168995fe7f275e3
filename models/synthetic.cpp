// Models made up on the spot, in the shape of every published size (OPT, arXiv:2205.01068, table 1), so that anyone can
// measure a machine without a download. A weight is drawn on the device it is for.
#include <array>
#include <unordered_map>

#include "models/parameters.h"
#include "nibble/error.h"

namespace nibble {
namespace {

constexpr std::string_view kPrefix = "synthetic:opt-";

struct Size {
  std::string_view name;
  int hidden, layers, heads;
};

constexpr std::array<Size, 9> kSizes{{{"125m", 768, 12, 12},
                                      {"350m", 1024, 24, 16},
                                      {"1.3b", 2048, 24, 32},
                                      {"2.7b", 2560, 32, 32},
                                      {"6.7b", 4096, 32, 32},
                                      {"13b", 5120, 40, 40},
                                      {"30b", 7168, 48, 56},
                                      {"66b", 9216, 64, 72},
                                      {"175b", 12288, 96, 96}}};

ModelConfig config_of(const Size& size) {
  ModelConfig config;
  config.hidden_size = size.hidden;
  config.ffn_dim = 4 * size.hidden;
  config.num_hidden_layers = size.layers;
  config.num_attention_heads = size.heads;
  config.word_embed_proj_dim = size.hidden;
  if (size.name == "350m") {  // the one post-norm model, with a narrower embedding
    config.word_embed_proj_dim = 512;
    config.do_layer_norm_before = false;
  }
  config.dtype = DType::kF16;
  return config;
}

/// OPT's init_std: weights of this size keep activations in range in every dtype.
constexpr float kStandardDeviation = 0.02F;

std::uint64_t hash(std::string_view text, std::uint64_t seed) {  // FNV-1a
  std::uint64_t value = 0xcbf29ce484222325ULL ^ seed;
  for (const char c : text) value = (value ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return value;
}

class SyntheticSource final : public ParameterSource {
 public:
  SyntheticSource(const Size& size, std::uint64_t seed) : config_(config_of(size)), seed_(seed) {
    for (const Parameter& parameter : list_parameters(config_, *this)) {
      const bool vector = parameter.kind == Parameter::Kind::kVector;
      shapes_.emplace(vector ? parameter.name : parameter.name + ".weight", std::pair{parameter.n, parameter.k});
    }
  }

  const ModelConfig& config() const override { return config_; }
  GenerationConfig generation() const override { return {}; }
  bool has(const std::string& tensor) const override { return shapes_.contains(tensor); }

  std::vector<std::string> tensors() const override {
    std::vector<std::string> names;
    for (const auto& [name, shape] : shapes_) names.push_back(name);
    return names;
  }

  MatrixInfo describe(const std::string& name) const override {
    const auto [n, k] = shapes_.at(name + ".weight");
    return {{Scheme::kNone, DType::kF16, 0}, n, k, {n, k}, "fp16"};
  }

  Weight matrix(const std::string& name, const Storage& target, Backend& backend) const override {
    const auto [n, k] = shapes_.at(name + ".weight");
    return backend.make_random({n, k, target, kStandardDeviation, hash(name, seed_)});
  }

  /// LayerNorms that change nothing, biases of zero: what a fresh model has.
  std::vector<float> vector(const std::string& tensor, int size) const override {
    return std::vector<float>(static_cast<std::size_t>(size), tensor.ends_with("norm.weight") ? 1.0F : 0.0F);
  }

 private:
  ModelConfig config_;
  std::uint64_t seed_;
  std::unordered_map<std::string, std::pair<int, int>> shapes_;
};

}  // namespace

bool is_synthetic(std::string_view model) { return model.starts_with("synthetic:"); }

std::unique_ptr<ParameterSource> make_synthetic_source(std::string_view model, std::uint64_t seed) {
  std::string names;
  for (const Size& size : kSizes) {
    if (model.starts_with(kPrefix) && model.substr(kPrefix.size()) == size.name) {
      return std::make_unique<SyntheticSource>(size, seed);
    }
    names += (names.empty() ? "" : ", ") + std::string(kPrefix) + std::string(size.name);
  }
  throw Error(ErrorKind::kInvalidArgument, "model: expected one of " + names + ", found " + std::string(model));
}

}  // namespace nibble
