#include "models/checkpoint/safetensors_writer.h"

#include <algorithm>
#include <array>
#include <bit>
#include <nlohmann/json.hpp>
#include <tuple>
#include <utility>

#include "models/checkpoint/byte_size.h"
#include "models/checkpoint/quote.h"
#include "models/checkpoint/safetensors_header.h"
#include "nibble/error.h"

namespace nibble {
namespace {

static_assert(std::endian::native == std::endian::little, "both containers are little endian and so is every target");

/// The reference writer's order of element types in the file (safetensors/src/tensor.rs, `Dtype`, from the last).
constexpr std::array<DType, 13> kOrder = {DType::kU64, DType::kI64,  DType::kF64, DType::kF32, DType::kU32,
                                          DType::kI32, DType::kBF16, DType::kF16, DType::kU16, DType::kI16,
                                          DType::kI8,  DType::kU8,   DType::kBool};

std::string json_string(const std::string& text, const std::filesystem::path& file) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::type_error&) {
    throw Error(ErrorKind::kInvalidArgument, file.string() + ": " + quote(text) + " is not valid UTF-8");
  }
}

std::string metadata_json(const std::map<std::string, std::string>& metadata, const std::filesystem::path& file) {
  std::string text = json_string(std::string(kSafetensorsMetadata), file) + ":{";
  for (const auto& [key, value] : metadata) {
    if (!text.ends_with('{')) text += ',';
    text += json_string(key, file) + ":" + json_string(value, file);
  }
  return text + "}";
}

std::string tensor_json(const TensorInfo& tensor, std::uint64_t begin, std::uint64_t end,
                        const std::filesystem::path& file) {
  return json_string(tensor.name, file) + ":" + "{\"dtype\":\"" + std::string(safetensors_name(tensor.dtype)) +
         "\",\"shape\":" + nlohmann::json(tensor.shape).dump() + ",\"data_offsets\":[" + std::to_string(begin) + "," +
         std::to_string(end) + "]}";
}

}  // namespace

SafetensorsWriter::Layout SafetensorsWriter::lay_out(const std::filesystem::path& file, std::vector<TensorInfo> tensors,
                                                     const std::map<std::string, std::string>& metadata) {
  const auto fail = [&](const TensorInfo& tensor, const std::string& what) {
    throw Error(ErrorKind::kInvalidArgument, file.string() + ": tensor " + quote(tensor.name) + " " + what);
  };
  std::ranges::sort(tensors, {}, [](const TensorInfo& tensor) {
    return std::tuple(std::ranges::find(kOrder, tensor.dtype) - kOrder.begin(), std::string_view(tensor.name));
  });

  Layout layout;
  std::string json = "{";
  if (!metadata.empty()) json += metadata_json(metadata, file);
  std::uint64_t position = 0;
  for (const TensorInfo& tensor : tensors) {
    if (tensor.name == kSafetensorsMetadata) fail(tensor, "has the name reserved for metadata");
    const auto bytes = byte_size(tensor.dtype, tensor.shape);
    std::uint64_t end = 0;
    if (!bytes || __builtin_add_overflow(position, *bytes, &end) || !std::in_range<std::int64_t>(end)) {
      fail(tensor, "of shape " + shape_text(tensor.shape) + " is too large for a file");
    }
    if (!layout.slots.emplace(tensor.name, Slot{position, *bytes}).second) fail(tensor, "is declared twice");
    if (json.size() > 1) json += ',';
    json += tensor_json(tensor, position, end, file);
    position = end;
  }
  json += '}';
  json.append((sizeof(std::uint64_t) - json.size() % sizeof(std::uint64_t)) % sizeof(std::uint64_t), ' ');
  if (json.size() > kMaxSafetensorsHeader) {
    throw Error(ErrorKind::kInvalidArgument, file.string() + ": the header would take " + std::to_string(json.size()) +
                                                 " bytes; safetensors allows at most " +
                                                 std::to_string(kMaxSafetensorsHeader));
  }
  const std::uint64_t length = json.size();
  layout.header.assign(reinterpret_cast<const char*>(&length), sizeof length);
  layout.header += json;
  for (auto& [name, slot] : layout.slots) slot.offset += layout.header.size();
  layout.bytes = layout.header.size() + position;
  return layout;
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& file, std::vector<TensorInfo> tensors,
                                     const std::map<std::string, std::string>& metadata)
    : SafetensorsWriter(lay_out(file, std::move(tensors), metadata), file) {}

SafetensorsWriter::SafetensorsWriter(Layout layout, const std::filesystem::path& file)
    : file_(file), slots_(std::move(layout.slots)), partial_(file, layout.bytes) {
  partial_.write(0, std::as_bytes(std::span(layout.header)));
}

void SafetensorsWriter::write(const std::string& name, std::span<const std::byte> data) {
  const auto fail = [&](const std::string& what) {
    throw Error(ErrorKind::kInvalidArgument, file_.string() + ": tensor " + quote(name) + " " + what);
  };
  const auto found = slots_.find(name);
  if (found == slots_.end()) fail("was not declared");
  Slot& slot = found->second;
  if (slot.written) fail("is written twice");
  if (data.size() != slot.bytes) {
    fail("takes " + std::to_string(slot.bytes) + " bytes, but " + std::to_string(data.size()) + " were given");
  }
  partial_.write(slot.offset, data);
  slot.written = true;
}

void SafetensorsWriter::commit() {
  for (const auto& [name, slot] : slots_) {
    if (!slot.written) {
      throw Error(ErrorKind::kInvalidArgument, file_.string() + ": tensor " + quote(name) + " was never written");
    }
  }
  partial_.commit();
}

}  // namespace nibble
