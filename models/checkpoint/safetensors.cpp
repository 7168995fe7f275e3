// Reads safetensors: the header is checked once, contents are served from the mapping.
#include <utility>

#include "models/checkpoint/checkpoint.h"
#include "models/checkpoint/host_buffer.h"
#include "models/checkpoint/mapped_file.h"
#include "models/checkpoint/quote.h"
#include "models/checkpoint/safetensors_header.h"

namespace nibble {
namespace {

class SafetensorsFile : public TensorFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& file) : mapping_(MappedFile::open(file)) {
    for (SafetensorsEntry& entry : parse_safetensors_header(mapping_->bytes(), file)) {
      tensors_.push_back(std::move(entry.info));
      offsets_.push_back(entry.offset);
    }
  }

  const std::vector<TensorInfo>& tensors() const override { return tensors_; }

  HostTensor read(std::size_t index) const override {
    const TensorInfo& info = tensors_.at(index);
    const std::span<const std::byte> data = mapping_->bytes().subspan(offsets_[index], info.bytes());
    // Old writers did not pad the header, so contents may lie at any address.
    return aligned(data, MappedFile::hold(mapping_, data), info.dtype,
                   info.file.string() + ": tensor " + quote(info.name));
  }

 private:
  std::shared_ptr<const MappedFile> mapping_;
  std::vector<TensorInfo> tensors_;
  std::vector<std::uint64_t> offsets_;  ///< parallel to tensors_, from the start of the file
};

}  // namespace

std::unique_ptr<TensorFile> open_safetensors(const std::filesystem::path& file) {
  return std::make_unique<SafetensorsFile>(file);
}

}  // namespace nibble
