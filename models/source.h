// Where a model's parameters come from: a checkpoint's files, or thin air (synthetic models). Parameters are named as
// in transformers without the leading "model.": "decoder.layers.0.fc1" has a ".weight" and perhaps a ".bias".
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "models/config.h"
#include "models/formats/format.h"

namespace nibble {

/// Immutable and thread-safe once made.
class ParameterSource {
 public:
  virtual ~ParameterSource() = default;

  /// As config.json says; what the tensors themselves say is asked with `has` and `describe`.
  virtual const ModelConfig& config() const = 0;
  virtual GenerationConfig generation() const = 0;

  /// Whether there is a tensor of this full name, e.g. "decoder.layers.0.fc1.bias".
  virtual bool has(const std::string& tensor) const = 0;
  /// Throws Error{kFormat} naming it where there is none.
  void require(const std::string& tensor) const;
  /// Names of all tensors but those that old files hold and no computation uses.
  virtual std::vector<std::string> tensors() const = 0;

  /// Matrix `name`.weight, as it is kept where it comes from. Reads no weights. Throws Error, as those below.
  virtual MatrixInfo describe(const std::string& name) const = 0;
  /// Matrix `name`.weight on the backend's device, kept as `target` says.
  virtual Weight matrix(const std::string& name, const Storage& target, Backend& backend) const = 0;
  /// A vector of `size` values, of full name `tensor`, in fp32.
  virtual std::vector<float> vector(const std::string& tensor, int size) const = 0;
};

/// The parameters of a checkpoint directory. Throws Error.
std::unique_ptr<ParameterSource> open_checkpoint_source(const std::filesystem::path& directory);

/// Whether a model's name asks for a synthetic one: "synthetic:opt-350m".
bool is_synthetic(std::string_view model);
/// Random parameters in the shape of a published size, the same for the same seed. Throws Error{kInvalidArgument}
/// listing the sizes there are.
std::unique_ptr<ParameterSource> make_synthetic_source(std::string_view model, std::uint64_t seed);

}  // namespace nibble
