// `quantize`: a checkpoint directory read parameter by parameter and written again in another scheme.
#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>

#include "models/checkpoint/json.h"
#include "models/checkpoint/partial_file.h"
#include "models/checkpoint/safetensors_writer.h"
#include "models/formats/format.h"
#include "nibble/error.h"
#include "nibble/inspect.h"
#include "runtime/loading.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

/// Within a directory whose commit makes it last.
void rename_file(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  if (error) throw Error(ErrorKind::kIo, to.string() + ": cannot be created: " + error.message());
}

/// Collects tensors and writes them in files of at most `largest` bytes, named as Hugging Face names shards.
class ShardWriter {
 public:
  ShardWriter(fs::path directory, std::uint64_t largest) : directory_(std::move(directory)), largest_(largest) {}

  void add(std::vector<OutputTensor> tensors) {
    std::uint64_t bytes = 0;
    for (const OutputTensor& tensor : tensors) bytes += tensor.data.size();
    if (!pending_.empty() && pending_bytes_ + bytes > largest_) flush();
    pending_bytes_ += bytes;
    total_bytes_ += bytes;
    std::ranges::move(tensors, std::back_inserter(pending_));
  }

  /// Writes what is left, gives the files their names, and the index when there are several.
  void finish() {
    flush();
    const std::size_t count = shards_.size();
    if (count == 1) {
      rename_file(directory_ / shard_name(0, 0), directory_ / "model.safetensors");
      return;
    }
    Json map = Json::object();
    for (std::size_t i = 0; i < count; ++i) {
      rename_file(directory_ / shard_name(i, 0), directory_ / shard_name(i, count));
      for (const std::string& tensor : shards_[i]) map[tensor] = shard_name(i, count);
    }
    const Json index{{"metadata", {{"total_size", total_bytes_}}}, {"weight_map", map}};
    write_atomically(directory_ / "model.safetensors.index.json", index.dump(2) + "\n");
  }

 private:
  static std::string shard_name(std::size_t index, std::size_t count) {
    const auto padded = [](std::size_t number) {
      const std::string digits = std::to_string(number);
      return std::string(5 - std::min<std::size_t>(5, digits.size()), '0') + digits;
    };
    return "model-" + padded(index + 1) + "-of-" + padded(count) + ".safetensors";
  }

  void flush() {
    std::vector<TensorInfo> infos;
    for (const OutputTensor& tensor : pending_) infos.push_back(tensor.info);
    SafetensorsWriter writer(directory_ / shard_name(shards_.size(), 0), infos);
    auto& names = shards_.emplace_back();
    for (const OutputTensor& tensor : pending_) {
      writer.write(tensor.info.name, {tensor.data.as<std::byte>(), tensor.data.size()});
      names.push_back(tensor.info.name);
    }
    writer.commit();
    pending_.clear();
    pending_bytes_ = 0;
  }

  fs::path directory_;
  std::uint64_t largest_;
  std::vector<OutputTensor> pending_;
  std::uint64_t pending_bytes_ = 0;
  std::uint64_t total_bytes_ = 0;
  std::vector<std::vector<std::string>> shards_;
};

/// In a file, what is not quantized has the dtype asked for, though memory may keep it in 16 bits as it is stored.
/// GPTQ's readers look for their weights in the decoder's layers alone.
Storage file_storage(const StoragePolicy& policy, const Parameter& p, const Storage& stored) {
  Storage storage = target_storage(policy, p, stored);
  if (is_int4(storage.scheme) && !p.name.starts_with("decoder.layers.")) storage.scheme = Scheme::kNone;
  if (storage.scheme == Scheme::kNone) storage.dtype = policy.compute_dtype;
  return storage;
}

/// The one group size that AutoGPTQ's config.json gives for all int4 weights; -1: a group is a row.
int gptq_group_size(const ParameterSource& source, const std::vector<Parameter>& parameters,
                    const StoragePolicy& policy) {
  std::set<int> sizes;  // of weights with more groups in a row than one
  int longest_row = 0;  // of the others
  for (const Parameter& p : parameters) {
    if (p.kind == Parameter::Kind::kVector) continue;
    const Storage storage = file_storage(policy, p, source.describe(p.name).storage);
    if (!is_int4(storage.scheme)) continue;
    if (storage.blocksize < p.k) {
      sizes.insert(storage.blocksize);
    } else {
      longest_row = std::max(longest_row, p.k);
    }
  }
  if (sizes.empty()) return -1;
  // A row that is no longer than a group of the others is one group in either way of counting.
  if (longest_row > *sizes.begin()) sizes.insert(longest_row);
  if (sizes.size() == 1) return *sizes.begin();
  throw Error(
      ErrorKind::kUnsupported,
      "quantize: expected weights in groups of one size, as GPTQ's config.json names only one, found groups of " +
          std::to_string(*sizes.begin()) + " and of " + std::to_string(*sizes.rbegin()));
}

/// The block AutoGPTQ writes into config.json.
Json gptq_config(Scheme scheme, int group_size) {
  return {{"bits", 4},
          {"checkpoint_format", "gptq"},
          {"desc_act", false},
          {"group_size", group_size},
          {"quant_method", "gptq"},
          {"sym", scheme == Scheme::kInt4}};
}

/// The block transformers writes into config.json for such a load (utils/quantization_config.py, to_dict).
Json bitsandbytes_config(Scheme scheme, DType dtype) {
  const bool is_int8 = scheme == Scheme::kInt8;
  const bool nf4 = scheme == Scheme::kNf4 || scheme == Scheme::kNf4Dq;
  const char* compute = dtype == DType::kF16 ? "float16" : dtype == DType::kBF16 ? "bfloat16" : "float32";
  return {{"_load_in_4bit", !is_int8},
          {"_load_in_8bit", is_int8},
          {"bnb_4bit_compute_dtype", compute},
          {"bnb_4bit_quant_storage", "uint8"},
          {"bnb_4bit_quant_type", nf4 ? "nf4" : "fp4"},
          {"bnb_4bit_use_double_quant", is_nested(scheme)},
          {"llm_int8_enable_fp32_cpu_offload", false},
          {"llm_int8_has_fp16_weight", false},
          {"llm_int8_skip_modules", nullptr},
          {"llm_int8_threshold", 6.0},
          {"load_in_4bit", !is_int8},
          {"load_in_8bit", is_int8},
          {"quant_method", "bitsandbytes"}};
}

/// `quantization` is null where nothing is quantized.
void write_config(const fs::path& source, const fs::path& destination, const Json& quantization, DType dtype) {
  const fs::path file = source / "config.json";
  auto config = parse_json<Json>(read_text_file(file), file.string());
  if (quantization.is_null()) {
    config.erase("quantization_config");
  } else {
    config["quantization_config"] = quantization;
  }
  const char* key = config.contains("dtype") ? "dtype" : "torch_dtype";
  config[key] = dtype == DType::kF16 ? "float16" : dtype == DType::kBF16 ? "bfloat16" : "float32";
  write_atomically(destination / "config.json", config.dump(2) + "\n");
}

/// Everything beside the weights: tokenizer, generation settings, model card.
void copy_other_files(const fs::path& source, const fs::path& destination) {
  std::error_code error;
  for (fs::directory_iterator entry(source, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    const std::string extension = entry->path().extension().string();
    const bool weights = extension == ".safetensors" || extension == ".bin" || extension == ".pt" ||
                         extension == ".h5" || extension == ".msgpack" || name.ends_with(".index.json");
    std::error_code ignored;  // a link that leads nowhere is no file
    if (weights || name == "config.json" || !entry->is_regular_file(ignored)) continue;
    write_atomically(destination / name, read_text_file(entry->path()));
  }
  if (error) throw Error(ErrorKind::kIo, source.string() + ": cannot be listed: " + error.message());
}

/// transformers' name for a parameter of OPTForCausalLM.
std::string saved_name(const std::string& name) { return name.starts_with("decoder.") ? "model." + name : name; }

std::vector<OutputTensor> vector_tensor(const ParameterSource& source, const Parameter& p, DType dtype,
                                        Backend& backend) {
  const std::vector<float> values = source.vector(p.name, p.k);
  Buffer buffer = Buffer::allocate(values.size() * sizeof(float));
  std::ranges::copy(values, buffer.mutable_as<float>());
  const Weight rounded = backend.prepare(Dense<float>{buffer, 1, p.k}, {Scheme::kNone, dtype, 0}, p.name);
  std::vector<OutputTensor> tensors = write_matrix(rounded, p.name, dtype);
  tensors.front().info.name = saved_name(p.name);
  tensors.front().info.shape = {p.k};
  return tensors;
}

}  // namespace

void quantize(const std::string& source_path, const std::string& destination, const QuantizeOptions& options,
              const Progress& progress) try {
  if (is_synthetic(source_path)) {
    throw Error(ErrorKind::kInvalidArgument, "quantize: expected a checkpoint directory, found " + source_path);
  }
  if (options.scheme == Scheme::kInt8Decomp) {
    throw Error(ErrorKind::kInvalidArgument,
                "quantize: expected a scheme that weights are stored as, found int8-decomp, another way to multiply "
                "those of int8; quantize to int8 and load that as int8-decomp");
  }
  const auto source = open_source(source_path, 0);
  LoadOptions load{.scheme = options.scheme,
                   .compute_dtype = options.dtype,
                   .embedding = options.embedding,
                   .blocksize = options.blocksize};
  const StoragePolicy policy = resolve_policy(load, *source);
  const std::vector<Parameter> parameters = find_parameters(*source);
  Json quantization;
  if (is_int4(options.scheme)) {
    quantization = gptq_config(options.scheme, gptq_group_size(*source, parameters, policy));
  } else if (options.scheme != Scheme::kNone) {
    quantization = bitsandbytes_config(options.scheme, policy.compute_dtype);
  }
  const auto backend = make_cpu_backend({.threads = options.threads});
  PartialDirectory directory(destination);
  ShardWriter writer(directory.path(), options.shard_bytes);

  std::uint64_t total = 0;
  for (const Parameter& p : parameters) total += static_cast<std::uint64_t>(p.elements());
  std::uint64_t done = 0;
  for (const Parameter& p : parameters) {
    if (p.kind == Parameter::Kind::kVector) {
      writer.add(vector_tensor(*source, p, policy.compute_dtype, *backend));
    } else {
      const Storage target = file_storage(policy, p, source->describe(p.name).storage);
      const Weight weight = source->matrix(p.name, target, *backend);
      // A token table that was saved under its head's name alone goes back under its own.
      const std::string name = p.kind == Parameter::Kind::kTokenTable ? "decoder.embed_tokens" : p.name;
      writer.add(write_matrix(weight, saved_name(name), policy.compute_dtype));
    }
    done += static_cast<std::uint64_t>(p.elements());
    if (progress) progress(done, total);
  }
  writer.finish();
  copy_other_files(source_path, directory.path());
  write_config(source_path, directory.path(), quantization, policy.compute_dtype);
  directory.commit();
} catch (const Error& error) {
  rethrow_naming(source_path, error);
}

void save_file(const std::string& file, std::string_view contents) { write_atomically(file, contents); }

void save_tensor(const std::string& file, const std::string& name, std::span<const float> values, std::int64_t rows,
                 std::int64_t columns) {
  if (rows < 0 || columns < 0 ||
      static_cast<std::uint64_t>(rows) * static_cast<std::uint64_t>(columns) != values.size()) {
    throw Error(ErrorKind::kInvalidArgument, "save_tensor: expected rows x columns values, found " +
                                                 std::to_string(values.size()) + " for " + std::to_string(rows) +
                                                 " x " + std::to_string(columns));
  }
  SafetensorsWriter writer(file, {{name, DType::kF32, {rows, columns}, {}}});
  writer.write(name, std::as_bytes(values));
  writer.commit();
}

}  // namespace nibble
