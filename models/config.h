// A model's configuration as values: config.json and generation_config.json of a checkpoint, read strictly. Field names
// are transformers' OPTConfig's. A field of the wrong type or an impossible value is an error naming file and key.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/backend.h"
#include "nibble/types.h"

namespace nibble {

struct ModelConfig {
  std::string model_type = "opt";
  int vocab_size = 50272;
  int hidden_size = 768;
  int ffn_dim = 3072;
  int num_hidden_layers = 12;
  int num_attention_heads = 12;
  int word_embed_proj_dim = 768;       ///< width of the token embedding; hidden_size unless the model projects
  int max_position_embeddings = 2048;  ///< tokens a sequence may have; the table has two more rows
  bool do_layer_norm_before = true;
  bool remove_final_layer_norm = false;
  bool enable_bias = true;
  bool layer_norm_elementwise_affine = true;
  bool tie_word_embeddings = true;
  Activation activation_function = Activation::kRelu;
  std::optional<DType> dtype;    ///< `torch_dtype` or `dtype`; absent: the first floating tensor's
  std::optional<Scheme> scheme;  ///< what a bitsandbytes `quantization_config` asks for; GPTQ and AWQ ask for nothing

  int head_dim() const { return hidden_size / num_attention_heads; }
  bool has_projection() const { return word_embed_proj_dim != hidden_size; }
  bool has_final_layer_norm() const { return do_layer_norm_before && !remove_final_layer_norm; }
};

/// Rows of the position table that come before position 0 (OPTLearnedPositionalEmbedding in transformers).
inline constexpr int kPositionOffset = 2;

/// `generation_config.json`: what transformers' generate() would use. Absent keys have transformers' defaults.
struct GenerationConfig {
  bool do_sample = false;
  float temperature = 1.0F;
  int top_k = 50;
  float top_p = 1.0F;
  float min_p = 0.0F;
  float repetition_penalty = 1.0F;
  std::optional<int> max_new_tokens;
  std::vector<int> eos_token_id{2};
};

/// `file` is for messages. Throws Error{kFormat, kUnsupported}.
ModelConfig parse_config(std::string_view json, const std::filesystem::path& file);
GenerationConfig parse_generation_config(std::string_view json, const std::filesystem::path& file);

/// config.json of a checkpoint directory. Throws Error{kNotFound} when there is none.
ModelConfig read_config(const std::filesystem::path& directory);
/// generation_config.json, or where that is absent the generation keys of config.json.
GenerationConfig read_generation_config(const std::filesystem::path& directory);

/// The whole of a text file. Throws Error{kNotFound, kIo}.
std::string read_text_file(const std::filesystem::path& file);

}  // namespace nibble
