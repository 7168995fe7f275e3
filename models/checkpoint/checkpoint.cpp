#include "models/checkpoint/checkpoint.h"

#include <algorithm>
#include <array>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

#include "models/checkpoint/mapped_file.h"
#include "models/checkpoint/quote.h"
#include "models/checkpoint/shard_index.h"
#include "nibble/error.h"

namespace nibble {
namespace {

using Opener = std::unique_ptr<TensorFile> (*)(const std::filesystem::path&);

struct Container {
  const char* name;
  Opener open;
};

/// In order of preference: the one that needs no pickle first.
constexpr std::array<Container, 2> kContainers = {
    {{"model.safetensors", open_safetensors}, {"pytorch_model.bin", open_torch_bin}}};

std::filesystem::path index_of(const std::filesystem::path& directory, const Container& container) {
  return directory / (std::string(container.name) + ".index.json");
}

bool is_present(const std::filesystem::path& file) {
  std::error_code ignored;  // a file that cannot be examined is reported when it is opened
  return std::filesystem::exists(file, ignored);
}

bool is_gguf(const std::filesystem::path& file) { return file.extension() == ".gguf"; }

/// The first GGUF file of a directory; nothing where it has none, or a container that is read.
std::optional<std::filesystem::path> only_gguf(const std::filesystem::path& directory) {
  for (const Container& container : kContainers) {
    if (is_present(directory / container.name) || is_present(index_of(directory, container))) return std::nullopt;
  }
  std::error_code error;  // a directory that cannot be listed is reported when it is opened
  for (std::filesystem::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    if (is_gguf(entry->path())) return entry->path();
  }
  return std::nullopt;
}

[[noreturn]] void refuse_gguf(const std::filesystem::path& file) {
  throw Error(ErrorKind::kUnsupported,
              file.string() + ": expected a checkpoint directory with config.json and model.safetensors or " +
                  "pytorch_model.bin, found a GGUF file, which nibble does not read");
}

ShardIndex read_index(const std::filesystem::path& file) {
  const auto mapping = MappedFile::open(file);
  const std::span<const std::byte> bytes = mapping->bytes();
  return parse_shard_index({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, file);
}

/// The shards an index names, each once. Throws naming those that are absent.
std::set<std::string> shards_of(const ShardIndex& index, const std::filesystem::path& file) {
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : index) shards.insert(shard);
  std::string absent;
  for (const std::string& shard : shards) {
    if (!is_present(file.parent_path() / shard)) absent += (absent.empty() ? "" : ", ") + quote(shard);
  }
  if (!absent.empty()) {
    throw Error(ErrorKind::kNotFound, file.string() + ": names files that are not beside it: " + absent);
  }
  return shards;
}

/// The index must place each tensor in exactly the file that holds it.
void check_against_index(const std::vector<TensorInfo>& tensors, const ShardIndex& index,
                         const std::filesystem::path& file) {
  const auto fail = [&](const std::string& what) { throw Error(ErrorKind::kFormat, file.string() + ": " + what); };
  for (const TensorInfo& tensor : tensors) {
    const std::string held =
        "tensor " + quote(tensor.name) + ", which " + quote(tensor.file.filename().string()) + " holds";
    const auto place = index.find(tensor.name);
    if (place == index.end()) fail("does not list " + held);
    if (place->second != tensor.file.filename()) fail("places " + held + ", in " + quote(place->second));
  }
  for (const auto& [name, shard] : index) {
    if (!std::ranges::binary_search(tensors, name, {}, &TensorInfo::name)) {
      fail("places tensor " + quote(name) + " in " + quote(shard) + ", which does not hold it");
    }
  }
}

}  // namespace

std::int64_t TensorInfo::elements() const {
  std::int64_t count = 1;
  for (const std::int64_t dimension : shape) count *= dimension;
  return count;
}

void require_checkpoint_directory(const std::filesystem::path& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    if (const auto file = only_gguf(path)) refuse_gguf(*file);
    return;
  }
  if (!is_present(path)) {
    const bool absent = !error || error == std::errc::no_such_file_or_directory;
    throw Error(ErrorKind::kNotFound,
                path.string() + ": no such checkpoint directory" + (absent ? "" : ": " + error.message()));
  }
  if (is_gguf(path)) refuse_gguf(path);
  throw Error(ErrorKind::kInvalidArgument, path.string() + ": is a file, expected a checkpoint directory");
}

Checkpoint::Checkpoint(std::vector<std::unique_ptr<TensorFile>> files) : files_(std::move(files)) {
  struct Found {
    const TensorInfo* info;
    Location location;
  };
  std::vector<Found> found;
  for (std::size_t file = 0; file < files_.size(); ++file) {
    const std::vector<TensorInfo>& tensors = files_[file]->tensors();
    for (std::size_t index = 0; index < tensors.size(); ++index) found.push_back({&tensors[index], {file, index}});
  }
  const auto name = [](const Found& tensor) -> const std::string& { return tensor.info->name; };
  std::ranges::stable_sort(found, {}, name);
  const auto twice = std::ranges::adjacent_find(found, {}, name);
  if (twice != found.end()) {
    throw Error(ErrorKind::kFormat, twice[1].info->file.string() + ": holds tensor " + quote(twice->info->name) +
                                        ", which " + quote(twice->info->file.filename().string()) + " holds too");
  }
  for (const Found& tensor : found) {
    tensors_.push_back(*tensor.info);
    locations_.push_back(tensor.location);
  }
}

Checkpoint Checkpoint::open(const std::filesystem::path& directory) {
  require_checkpoint_directory(directory);
  std::string looked_for;
  for (const Container& container : kContainers) {
    const std::filesystem::path single = directory / container.name;
    std::vector<std::unique_ptr<TensorFile>> files;
    if (is_present(single)) {
      files.push_back(container.open(single));
      return Checkpoint(std::move(files));
    }
    const std::filesystem::path index_file = index_of(directory, container);
    if (is_present(index_file)) {
      const ShardIndex index = read_index(index_file);
      for (const std::string& shard : shards_of(index, index_file)) files.push_back(container.open(directory / shard));
      Checkpoint checkpoint(std::move(files));
      check_against_index(checkpoint.tensors(), index, index_file);
      return checkpoint;
    }
    looked_for +=
        (looked_for.empty() ? "" : ", ") + std::string(container.name) + ", " + index_file.filename().string();
  }
  throw Error(ErrorKind::kNotFound, directory.string() + ": holds no checkpoint; looked for " + looked_for);
}

const TensorInfo* Checkpoint::find(std::string_view name) const {
  const auto place = std::ranges::lower_bound(tensors_, name, {}, &TensorInfo::name);
  return place != tensors_.end() && place->name == name ? &*place : nullptr;
}

HostTensor Checkpoint::read(const TensorInfo& info) const {
  const TensorInfo* const own = find(info.name);
  if (!own) throw Error(ErrorKind::kNotFound, "tensor " + quote(info.name) + " is not in this checkpoint");
  const Location& location = locations_[static_cast<std::size_t>(own - tensors_.data())];
  return files_[location.file]->read(location.index);
}

}  // namespace nibble
