// `quantize`: a checkpoint directory read parameter by parameter and written again in another scheme.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <set>

#include "models/checkpoint/safetensors_writer.h"
#include "models/formats/format.h"
#include "nibble/error.h"
#include "nibble/inspect.h"
#include "runtime/loading.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

void rename_file(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  if (error) throw Error(ErrorKind::kIo, to.string() + ": cannot be created: " + error.message());
}

/// A directory that takes its name only when everything is in it; before that it stands beside it under another.
class AtomicDirectory {
 public:
  explicit AtomicDirectory(fs::path target) : target_(std::move(target)) {
    if (fs::exists(target_)) {
      throw Error(ErrorKind::kInvalidArgument, target_.string() + ": expected a directory to be made, found it exists");
    }
    partial_ = target_;
    partial_ += ".partial-" + std::to_string(std::random_device{}());
    std::error_code error;
    if (!fs::create_directories(partial_, error)) {
      throw Error(ErrorKind::kIo, partial_.string() + ": cannot be created: " + error.message());
    }
  }
  ~AtomicDirectory() {
    std::error_code ignored;
    if (!partial_.empty()) fs::remove_all(partial_, ignored);
  }
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;

  const fs::path& path() const { return partial_; }

  void commit() {
    rename_file(partial_, target_);
    partial_.clear();
  }

 private:
  fs::path target_, partial_;
};

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
    std::ofstream stream(directory_ / "model.safetensors.index.json");
    stream << index.dump(2) << '\n';
    if (!stream.flush()) throw Error(ErrorKind::kIo, directory_.string() + ": the index cannot be written");
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

/// The block AutoGPTQ writes into config.json.
Json gptq_config(const QuantizeOptions& options) {
  return {{"bits", 4},
          {"checkpoint_format", "gptq"},
          {"desc_act", false},
          {"group_size", options.blocksize.value_or(default_blocksize(options.scheme))},
          {"quant_method", "gptq"},
          {"sym", options.scheme == Scheme::kInt4}};
}

/// The block transformers writes into config.json for such a load (utils/quantization_config.py, to_dict).
Json bitsandbytes_config(const QuantizeOptions& options, DType dtype) {
  const bool is_int8 = options.scheme == Scheme::kInt8;
  const bool nf4 = options.scheme == Scheme::kNf4 || options.scheme == Scheme::kNf4Dq;
  const char* compute = dtype == DType::kF16 ? "float16" : dtype == DType::kBF16 ? "bfloat16" : "float32";
  return {{"_load_in_4bit", !is_int8},
          {"_load_in_8bit", is_int8},
          {"bnb_4bit_compute_dtype", compute},
          {"bnb_4bit_quant_storage", "uint8"},
          {"bnb_4bit_quant_type", nf4 ? "nf4" : "fp4"},
          {"bnb_4bit_use_double_quant", is_nested(options.scheme)},
          {"llm_int8_enable_fp32_cpu_offload", false},
          {"llm_int8_has_fp16_weight", false},
          {"llm_int8_skip_modules", nullptr},
          {"llm_int8_threshold", 6.0},
          {"load_in_4bit", !is_int8},
          {"load_in_8bit", is_int8},
          {"quant_method", "bitsandbytes"}};
}

void write_config(const fs::path& source, const fs::path& destination, const QuantizeOptions& options, DType dtype) {
  Json config = Json::parse(read_text_file(source / "config.json"));
  if (options.scheme == Scheme::kNone) {
    config.erase("quantization_config");
  } else {
    config["quantization_config"] =
        is_int4(options.scheme) ? gptq_config(options) : bitsandbytes_config(options, dtype);
  }
  const char* key = config.contains("dtype") ? "dtype" : "torch_dtype";
  config[key] = dtype == DType::kF16 ? "float16" : dtype == DType::kBF16 ? "bfloat16" : "float32";
  std::ofstream stream(destination / "config.json");
  stream << config.dump(2) << '\n';
  if (!stream.flush()) throw Error(ErrorKind::kIo, (destination / "config.json").string() + ": cannot be written");
}

/// Everything beside the weights: tokenizer, generation settings, model card.
void copy_other_files(const fs::path& source, const fs::path& destination) {
  for (const auto& entry : fs::directory_iterator(source)) {
    const std::string name = entry.path().filename().string();
    const std::string extension = entry.path().extension().string();
    const bool weights = extension == ".safetensors" || extension == ".bin" || extension == ".pt" ||
                         extension == ".h5" || extension == ".msgpack" || name.ends_with(".index.json");
    if (!entry.is_regular_file() || weights || name == "config.json") continue;
    std::error_code error;
    fs::copy_file(entry.path(), destination / name, error);
    if (error) throw Error(ErrorKind::kIo, (destination / name).string() + ": cannot be written: " + error.message());
  }
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

/// In a file, what is not quantized has the dtype asked for; nothing is kept narrower as it is in memory. GPTQ's
/// readers look for their weights in the decoder's layers alone.
Storage file_storage(const StoragePolicy& policy, const Parameter& p, const Storage& stored) {
  Storage storage = target_storage(policy, p, stored);
  if (is_int4(storage.scheme) && !p.name.starts_with("decoder.layers.")) storage.scheme = Scheme::kNone;
  if (storage.scheme == Scheme::kNone) storage.dtype = policy.compute_dtype;
  return storage;
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
  const std::vector<Parameter> parameters = list_parameters(resolve_config(*source), *source);
  const auto backend = make_cpu_backend({.threads = options.threads});
  AtomicDirectory directory(destination);
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
  write_config(source_path, directory.path(), options, policy.compute_dtype);
  directory.commit();
} catch (const Error& error) {
  rethrow_naming(source_path, error);
}

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
