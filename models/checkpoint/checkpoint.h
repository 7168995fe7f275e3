// A checkpoint directory as names and bytes: what tensors its files hold, and their contents, mapped lazily. Knows the
// containers (safetensors, torch.save zip; single or sharded) and nothing of what the tensors mean.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/types.h"

namespace nibble {

/// One tensor as its file's header describes it. Row-major, little endian.
struct TensorInfo {
  std::string name;
  DType dtype;
  std::vector<std::int64_t> shape;  ///< empty for a scalar
  std::filesystem::path file;       ///< the file that holds it, for messages

  std::int64_t elements() const;
  std::uint64_t bytes() const { return static_cast<std::uint64_t>(elements()) * size_of(dtype); }
};

/// The contents of one tensor. `data` stays valid as long as `owner` (a mapping or a gathered copy) is held; it is
/// aligned to the element size and is contiguous, row-major.
struct HostTensor {
  std::span<const std::byte> data;
  std::shared_ptr<const void> owner;
};

/// One file of tensors. Opening reads and checks the header only. Thread-safe once opened.
class TensorFile {
 public:
  virtual ~TensorFile() = default;
  virtual const std::vector<TensorInfo>& tensors() const = 0;
  /// `index` is a position in tensors(). Throws Error when the bytes cannot be read.
  virtual HostTensor read(std::size_t index) const = 0;
};

/// Opens a `.safetensors` file. Throws Error{kNotFound, kIo, kFormat, kUnsupported}.
std::unique_ptr<TensorFile> open_safetensors(const std::filesystem::path& file);

/// Opens a file written by `torch.save` (zip container, restricted pickle; nothing in it is ever executed).
/// Throws Error as above; a legacy non-zip file, a TorchScript archive or a forbidden global is refused by name.
std::unique_ptr<TensorFile> open_torch_bin(const std::filesystem::path& file);

/// Throws Error saying what stands at `path` in place of a checkpoint directory: nothing, a file, a GGUF file, or a
/// directory of those.
void require_checkpoint_directory(const std::filesystem::path& path);

/// All tensors of a checkpoint directory, over however many shards. Thread-safe, movable; readers keep files mapped.
class Checkpoint {
 public:
  /// Looks in `directory` for, in this order: model.safetensors, model.safetensors.index.json, pytorch_model.bin,
  /// pytorch_model.bin.index.json. Throws Error naming what is missing or wrong; a name in two shards is an error.
  static Checkpoint open(const std::filesystem::path& directory);

  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  /// The tensor of that name, or nullptr.
  const TensorInfo* find(std::string_view name) const;
  /// Contents of a tensor of this checkpoint. `info` must come from tensors() or find().
  HostTensor read(const TensorInfo& info) const;

 private:
  explicit Checkpoint(std::vector<std::unique_ptr<TensorFile>> files);

  struct Location {
    std::size_t file;
    std::size_t index;
  };
  std::vector<std::unique_ptr<TensorFile>> files_;
  std::vector<TensorInfo> tensors_;  ///< sorted by name
  std::vector<Location> locations_;  ///< parallel to tensors_
};

}  // namespace nibble
