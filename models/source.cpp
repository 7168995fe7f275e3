#include "models/source.h"

#include <algorithm>
#include <map>

#include "kernels/dispatch.h"
#include "nibble/error.h"

namespace nibble {
namespace {

/// A file's name for a tensor without the prefix that the saving class put in front ("model." from OPTForCausalLM,
/// nothing from OPTModel). A matrix packed as `X.qweight` is X.weight.
std::string canonical(const std::string& name) {
  constexpr std::string_view kPacked = ".qweight";
  const std::string own = name.starts_with("model.") ? name.substr(6) : name;
  return own.ends_with(kPacked) ? own.substr(0, own.size() - kPacked.size()) + ".weight" : own;
}

/// Tensors that old files hold and no computation uses.
bool ignorable(const std::string& name) {
  return name.ends_with(".version") || name == "decoder.output_projection.weight";
}

DType first_floating(const Checkpoint& checkpoint) {
  for (const TensorInfo& info : checkpoint.tensors()) {
    if (info.dtype == DType::kF32 || info.dtype == DType::kF16 || info.dtype == DType::kBF16) return info.dtype;
  }
  return DType::kF32;
}

class CheckpointSource final : public ParameterSource {
 public:
  explicit CheckpointSource(const std::filesystem::path& directory)
      : config_(read_config(directory)),
        generation_(read_generation_config(directory)),
        checkpoint_(Checkpoint::open(directory)) {
    for (const TensorInfo& info : checkpoint_.tensors()) {
      const std::string name = canonical(info.name);
      if (!names_.emplace(name, info.name).second) {
        throw Error(ErrorKind::kFormat, info.file.string() + ": tensors '" + names_.at(name) + "' and '" + info.name +
                                            "' are the same parameter under two names");
      }
    }
    if (!config_.dtype) config_.dtype = first_floating(checkpoint_);
  }

  const ModelConfig& config() const override { return config_; }
  GenerationConfig generation() const override { return generation_; }
  bool has(const std::string& tensor) const override { return names_.contains(tensor); }

  std::vector<std::string> tensors() const override {
    std::vector<std::string> names;
    for (const auto& [name, stored] : names_) {
      if (!ignorable(name)) names.push_back(name);
    }
    return names;
  }

  MatrixInfo describe(const std::string& name) const override {
    const std::string stored = stored_name(name);
    return format_of(checkpoint_, stored).describe(checkpoint_, stored);
  }

  Weight matrix(const std::string& name, const Storage& target, Backend& backend) const override {
    const std::string stored = stored_name(name);
    return backend.prepare(format_of(checkpoint_, stored).read(checkpoint_, stored), target, stored + ".weight");
  }

  std::vector<float> vector(const std::string& tensor, int size) const override {
    require(tensor);
    const TensorInfo& info = require_tensor(checkpoint_, names_.at(tensor), {}, size);
    if (info.dtype != DType::kF32 && info.dtype != DType::kF16 && info.dtype != DType::kBF16) {
      fail_tensor(info, "floating-point values", std::string(to_string(info.dtype)));
    }
    const Buffer data = read_buffer(checkpoint_, info);
    return with_dtype(info.dtype, [&](auto tag) {
      const auto* values = data.as<typename decltype(tag)::type>();
      std::vector<float> result(static_cast<std::size_t>(size));
      std::transform(values, values + size, result.begin(), [](auto value) { return to_float(value); });
      return result;
    });
  }

 private:
  /// The matrix's name in the file, without ".weight" or ".qweight".
  std::string stored_name(const std::string& name) const {
    require(name + ".weight");
    const std::string& tensor = names_.at(name + ".weight");
    return tensor.substr(0, tensor.rfind('.'));
  }

  ModelConfig config_;
  GenerationConfig generation_;
  Checkpoint checkpoint_;
  std::map<std::string, std::string> names_;  ///< canonical name to the file's
};

}  // namespace

void ParameterSource::require(const std::string& tensor) const {
  if (has(tensor)) return;
  throw Error(ErrorKind::kFormat,
              "the checkpoint has no tensor '" + tensor + "', which its config.json and its other tensors call for");
}

std::unique_ptr<ParameterSource> open_checkpoint_source(const std::filesystem::path& directory) {
  return std::make_unique<CheckpointSource>(directory);
}

}  // namespace nibble
