// Models made up on the spot, in the shape of every published size (OPT, arXiv:2205.01068, table 1), so that anyone can
// measure a machine without a download. Codes are drawn directly in the scheme asked for; nothing is quantized.
#include <algorithm>
#include <array>
#include <bit>
#include <unordered_map>

#include "kernels/dispatch.h"
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
/// Standard deviations a block's or row's largest weight is away; the expected maximum of 64 draws is 2.4.
constexpr float kAbsmax = 2.4F * kStandardDeviation;

/// SplitMix64 (Steele, Lea, Flood 2014): any position of the stream at once, so pieces are drawn in parallel.
std::uint64_t draw(std::uint64_t seed, std::uint64_t position) {
  std::uint64_t z = seed + (position + 1) * 0x9e3779b97f4a7c15ULL;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

/// Nearly normal with the standard deviation above: the sum of four uniform 16-bit numbers, scaled.
float normal(std::uint64_t bits) {
  const auto sum =
      static_cast<float>((bits & 0xffff) + ((bits >> 16) & 0xffff) + ((bits >> 32) & 0xffff) + (bits >> 48));
  return (sum - 131070.0F) * (kStandardDeviation / 37837.2F);  // 65536 * sqrt(4 / 12)
}

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

  Weight matrix(const std::string& name, const Storage& target, ThreadPool& pool) const override {
    const auto [n, k] = shapes_.at(name + ".weight");
    const std::uint64_t seed = hash(name, seed_);
    if (target.scheme == Scheme::kNone) return dense(n, k, target.dtype, seed, pool);
    if (target.scheme == Scheme::kInt8) return int8(n, k, seed, pool);
    return lut4(n, k, target, seed, pool);
  }

  /// LayerNorms that change nothing, biases of zero: what a fresh model has.
  std::vector<float> vector(const std::string& tensor, int size) const override {
    return std::vector<float>(static_cast<std::size_t>(size), tensor.ends_with("norm.weight") ? 1.0F : 0.0F);
  }

 private:
  template <class F>
  static void fill(std::int64_t count, ThreadPool& pool, F&& f) {
    constexpr std::int64_t kPiece = 1 << 18;
    pool.run(static_cast<int>((count + kPiece - 1) / kPiece), [&](int task) {
      const std::int64_t last = std::min(count, (task + 1) * kPiece);
      for (std::int64_t i = task * kPiece; i < last; ++i) f(i);
    });
  }

  static Weight dense(int n, int k, DType dtype, std::uint64_t seed, ThreadPool& pool) {
    const std::int64_t elements = static_cast<std::int64_t>(n) * k;
    return with_dtype(dtype, [&](auto tag) -> Weight {
      using T = typename decltype(tag)::type;
      Dense<T> weight{Buffer::allocate_in_huge_pages(static_cast<std::size_t>(elements) * sizeof(T)), n, k};
      auto* values = weight.values.template mutable_as<T>();
      fill(elements, pool,
           [&](std::int64_t i) { values[i] = round_to<T>(normal(draw(seed, static_cast<std::uint64_t>(i)))); });
      return weight;
    });
  }

  static Weight int8(int n, int k, std::uint64_t seed, ThreadPool& pool) {
    const std::int64_t elements = static_cast<std::int64_t>(n) * k;
    Int8Row weight{Buffer::allocate_in_huge_pages(static_cast<std::size_t>(elements)), constant(n, kAbsmax), n, k};
    auto* codes = weight.codes.mutable_as<std::int8_t>();
    fill(elements, pool, [&](std::int64_t i) {
      const float value = normal(draw(seed, static_cast<std::uint64_t>(i))) * (127.0F / kAbsmax);
      codes[i] = static_cast<std::int8_t>(std::clamp(value, -127.0F, 127.0F));
    });
    return weight;
  }

  /// Uniform codes: NF4's levels are quantiles of the normal distribution, so uniform codes are normal weights.
  static Weight lut4(int n, int k, const Storage& target, std::uint64_t seed, ThreadPool& pool) {
    const std::int64_t elements = static_cast<std::int64_t>(n) * k;
    const std::int64_t bytes = (elements + 1) / 2;
    Buffer codes = Buffer::allocate_in_huge_pages(static_cast<std::size_t>(bytes));
    auto* out = codes.mutable_as<std::uint8_t>();
    fill(bytes, pool, [&](std::int64_t i) {
      out[i] = static_cast<std::uint8_t>(draw(seed, static_cast<std::uint64_t>(i / 8)) >> (8 * (i % 8)));
    });
    const bool nf4 = target.scheme == Scheme::kNf4 || target.scheme == Scheme::kNf4Dq;
    const Buffer levels = shared_table(nf4 ? kNf4Levels : kFp4Levels);
    const std::int64_t blocks = (elements + target.blocksize - 1) / target.blocksize;
    const Buffer absmax = constant(blocks, kAbsmax);
    if (!is_nested(target.scheme)) return Lut4<F32Scale>{codes, levels, {absmax}, target.blocksize, n, k};
    return Lut4<NestedScale>{
        codes, levels, encode_nested({absmax.as<float>(), static_cast<std::size_t>(blocks)}), target.blocksize, n, k};
  }

  static Buffer constant(std::int64_t count, float value) {
    Buffer buffer = Buffer::allocate_in_huge_pages(static_cast<std::size_t>(count) * sizeof(float));
    std::fill_n(buffer.mutable_as<float>(), count, value);
    return buffer;
  }

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
