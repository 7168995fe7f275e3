#include "models/config.h"

#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <span>
#include <system_error>
#include <utility>

#include "models/checkpoint/checkpoint.h"
#include "models/checkpoint/json.h"
#include "models/checkpoint/mapped_file.h"
#include "nibble/error.h"

namespace nibble {
namespace {

using Json = nlohmann::json;

/// Reads typed fields of one JSON object; null counts as absent, as transformers writes it.
class Fields {
 public:
  Fields(std::string_view text, std::filesystem::path file)
      : file_(std::move(file)), json_(parse_json<Json>(text, file_.string())) {}

  const Json* find(const char* key) const {
    const auto it = json_.find(key);
    return it == json_.end() || it->is_null() ? nullptr : &*it;
  }

  void read(const char* key, bool& value) const {
    if (const Json* field = find(key)) {
      if (!field->is_boolean()) fail(key, "true or false", *field);
      value = field->get<bool>();
    }
  }

  void read(const char* key, int& value, int minimum) const {
    if (const Json* field = find(key)) value = integer(key, *field, minimum);
  }

  void read(const char* key, float& value, double minimum, double maximum) const {
    if (const Json* field = find(key)) {
      const std::string expected = "a number from " + Json(minimum).dump() + " to " + Json(maximum).dump();
      if (!field->is_number()) fail(key, expected, *field);
      const double number = field->get<double>();
      if (!(number >= minimum && number <= maximum)) fail(key, expected, *field);
      value = static_cast<float>(number);
    }
  }

  std::string text(const char* key) const {
    const Json* field = find(key);
    if (field == nullptr) return {};
    if (!field->is_string()) fail(key, "a string", *field);
    return field->get<std::string>();
  }

  int integer(const char* key, const Json& field, int minimum) const {
    const std::string expected = "a whole number of at least " + std::to_string(minimum);
    if (!field.is_number_integer()) fail(key, expected, field);
    const auto number = field.get<std::int64_t>();
    if (number < minimum || number > std::numeric_limits<int>::max()) fail(key, expected, field);
    return static_cast<int>(number);
  }

  [[noreturn]] void fail(const char* key, const std::string& expected, const Json& found) const {
    throw Error(ErrorKind::kFormat,
                file_.string() + ": " + key + ": expected " + expected + ", found " + show_json(found));
  }

  [[noreturn]] void refuse(const std::string& sentence) const {
    throw Error(ErrorKind::kUnsupported, file_.string() + ": " + sentence);
  }

  const std::filesystem::path& file() const { return file_; }

 private:
  std::filesystem::path file_;
  Json json_;
};

/// transformers' ACT2FN names.
constexpr std::array<std::pair<std::string_view, Activation>, 11> kActivations{{
    {"relu", Activation::kRelu},
    {"gelu", Activation::kGelu},
    {"gelu_new", Activation::kGeluTanh},
    {"gelu_fast", Activation::kGeluTanh},
    {"gelu_pytorch_tanh", Activation::kGeluTanh},
    {"silu", Activation::kSilu},
    {"swish", Activation::kSilu},
    {"quick_gelu", Activation::kQuickGelu},
    {"relu2", Activation::kRelu2},
    {"relu6", Activation::kRelu6},
    {"linear", Activation::kIdentity},
}};

Activation activation(const Fields& fields) {
  const std::string name = fields.text("activation_function");
  if (name.empty()) return Activation::kRelu;
  for (const auto& [known, value] : kActivations) {
    if (known == name) return value;
  }
  fields.refuse("activation_function '" + name + "' is not one nibble computes");
}

std::optional<DType> stored_dtype(const Fields& fields) {
  std::string name = fields.text("dtype");
  if (name.empty()) name = fields.text("torch_dtype");
  if (name.starts_with("torch.")) name.erase(0, 6);
  if (name.empty() || name == "auto") return std::nullopt;
  const auto dtype = parse_compute_dtype(name);
  if (!dtype) fields.refuse("torch_dtype '" + name + "' is not one of float32, float16, bfloat16");
  return dtype;
}

bool flag(const Fields& fields, const Json& block, const char* key) {
  const auto it = block.find(key);
  if (it == block.end() || it->is_null()) return false;
  if (!it->is_boolean()) fields.fail(key, "true or false", *it);
  return it->get<bool>();
}

/// What the tensors of GPTQ and AWQ do not say of themselves: how they are packed. The rest is theirs to say.
void require_packing(const Fields& fields, const Json& block, const std::string& method) {
  const auto require = [&](const char* key, const Json& expected) {
    const Json found = block.value(key, expected);
    if (found == expected) return;
    fields.refuse("quantization_config of '" + method + "': expected " + key + " " + expected.dump() + ", found " +
                  show_json(found));
  };
  require("bits", 4);
  if (method == "awq") {
    require("version", "gemm");
  } else {
    require("checkpoint_format", "gptq");
  }
}

/// The oldest files have no quant_method and say only load_in_4bit or load_in_8bit.
std::optional<Scheme> quantization_scheme(const Fields& fields) {
  const Json* block = fields.find("quantization_config");
  if (block == nullptr) return std::nullopt;
  if (!block->is_object()) fields.fail("quantization_config", "an object", *block);
  const std::string method = block->value("quant_method", Json("bitsandbytes")).is_string()
                                 ? block->value("quant_method", Json("bitsandbytes")).get<std::string>()
                                 : std::string();
  if (method == "gptq" || method == "awq") {
    require_packing(fields, *block, method);
    return std::nullopt;
  }
  if (method != "bitsandbytes") {
    fields.refuse("quantization method '" + method +
                  "' is not supported; nibble reads checkpoints of bitsandbytes, GPTQ and AWQ");
  }
  if (flag(fields, *block, "load_in_8bit")) return Scheme::kInt8;
  if (!flag(fields, *block, "load_in_4bit")) {
    fields.refuse("quantization_config asks for neither load_in_8bit nor load_in_4bit");
  }
  const Json type = block->value("bnb_4bit_quant_type", Json("fp4"));
  const bool nested = flag(fields, *block, "bnb_4bit_use_double_quant");
  if (type == "nf4") return nested ? Scheme::kNf4Dq : Scheme::kNf4;
  if (type == "fp4") return nested ? Scheme::kFp4Dq : Scheme::kFp4;
  fields.fail("bnb_4bit_quant_type", "\"nf4\" or \"fp4\"", type);
}

void require_opt(const Fields& fields, ModelConfig& config) {
  const std::string type = fields.text("model_type");
  if (type == "opt") return;
  const Json* architectures = fields.find("architectures");
  const bool named = type.empty() && architectures != nullptr && architectures->is_array() && !architectures->empty() &&
                     architectures->front().is_string() && architectures->front().get<std::string>().starts_with("OPT");
  if (!named) fields.refuse("model_type '" + type + "' is not an architecture nibble runs (it runs 'opt')");
  config.model_type = "opt";
}

/// A file that cannot be examined is not absent; opening it says why.
bool is_absent(const std::filesystem::path& file) {
  std::error_code ignored;
  return std::filesystem::status(file, ignored).type() == std::filesystem::file_type::not_found;
}

}  // namespace

ModelConfig parse_config(std::string_view json, const std::filesystem::path& file) {
  const Fields fields(json, file);
  ModelConfig config;
  require_opt(fields, config);

  fields.read("vocab_size", config.vocab_size, 1);
  fields.read("d_model", config.hidden_size, 1);  // the older name
  fields.read("hidden_size", config.hidden_size, 1);
  fields.read("ffn_dim", config.ffn_dim, 1);
  fields.read("num_hidden_layers", config.num_hidden_layers, 1);
  fields.read("num_attention_heads", config.num_attention_heads, 1);
  fields.read("max_position_embeddings", config.max_position_embeddings, 1);
  config.word_embed_proj_dim = config.hidden_size;
  fields.read("word_embed_proj_dim", config.word_embed_proj_dim, 1);
  fields.read("do_layer_norm_before", config.do_layer_norm_before);
  fields.read("_remove_final_layer_norm", config.remove_final_layer_norm);
  fields.read("bias", config.enable_bias);  // the older name, in early Galactica files
  fields.read("enable_bias", config.enable_bias);
  fields.read("layer_norm_elementwise_affine", config.layer_norm_elementwise_affine);
  fields.read("tie_word_embeddings", config.tie_word_embeddings);
  config.activation_function = activation(fields);
  config.dtype = stored_dtype(fields);
  config.scheme = quantization_scheme(fields);

  if (config.hidden_size % config.num_attention_heads != 0) {
    throw Error(ErrorKind::kFormat, file.string() + ": hidden_size " + std::to_string(config.hidden_size) +
                                        " is not a multiple of num_attention_heads " +
                                        std::to_string(config.num_attention_heads));
  }
  if (config.max_position_embeddings > std::numeric_limits<int>::max() - kPositionOffset) {
    throw Error(ErrorKind::kFormat, file.string() + ": max_position_embeddings is too large");
  }
  return config;
}

GenerationConfig parse_generation_config(std::string_view json, const std::filesystem::path& file) {
  const Fields fields(json, file);
  GenerationConfig config;
  fields.read("do_sample", config.do_sample);
  fields.read("temperature", config.temperature, 0.0, 1e6);
  if (config.temperature > 0 && config.temperature < 1e-6F) {
    fields.fail("temperature", "0 or a number from 1e-06 to 1000000.0", *fields.find("temperature"));
  }
  fields.read("top_k", config.top_k, 0);
  fields.read("top_p", config.top_p, 0.0, 1.0);
  fields.read("min_p", config.min_p, 0.0, 1.0);
  fields.read("repetition_penalty", config.repetition_penalty, 1e-6, 1e6);
  if (const Json* field = fields.find("max_new_tokens")) {
    config.max_new_tokens = fields.integer("max_new_tokens", *field, 1);
  }
  if (const Json* field = fields.find("eos_token_id")) {
    config.eos_token_id.clear();
    for (const Json& id : field->is_array() ? *field : Json::array({*field})) {
      config.eos_token_id.push_back(fields.integer("eos_token_id", id, 0));
    }
  }
  return config;
}

std::string read_text_file(const std::filesystem::path& file) {
  const auto mapping = MappedFile::open(file);
  const std::span<const std::byte> bytes = mapping->bytes();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

ModelConfig read_config(const std::filesystem::path& directory) {
  require_checkpoint_directory(directory);
  const std::filesystem::path file = directory / "config.json";
  if (is_absent(file)) {
    throw Error(ErrorKind::kNotFound, directory.string() + ": has no config.json, so it is not a checkpoint");
  }
  return parse_config(read_text_file(file), file);
}

GenerationConfig read_generation_config(const std::filesystem::path& directory) {
  const std::filesystem::path own = directory / "generation_config.json";
  const std::filesystem::path file = is_absent(own) ? directory / "config.json" : own;
  return parse_generation_config(read_text_file(file), file);
}

}  // namespace nibble
