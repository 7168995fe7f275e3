// Names and sizes of the shared vocabulary (nibble/types.h): one table per enumeration, in the enumerators' order.
#include "nibble/types.h"

#include <array>

namespace nibble {
namespace {

struct DTypeRow {
  std::string_view name;
  std::size_t size;
};

constexpr std::array<DTypeRow, 13> kDTypes = {{{"fp32", 4},
                                               {"fp16", 2},
                                               {"bf16", 2},
                                               {"fp64", 8},
                                               {"int64", 8},
                                               {"int32", 4},
                                               {"int16", 2},
                                               {"int8", 1},
                                               {"uint64", 8},
                                               {"uint32", 4},
                                               {"uint16", 2},
                                               {"uint8", 1},
                                               {"bool", 1}}};
constexpr std::array<std::string_view, kSchemes.size()> kSchemeNames = {
    "none", "int8", "int8-decomp", "fp4", "nf4", "fp4-dq", "nf4-dq", "int4", "int4-asym"};
constexpr std::array<std::string_view, 2> kDevices = {"cpu", "cuda"};
constexpr std::array<std::string_view, 2> kEmbeddings = {"compute", "int8"};

template <typename Enum, std::size_t N>
std::optional<Enum> parse(const std::array<std::string_view, N>& names, std::string_view name) {
  for (std::size_t i = 0; i < N; ++i) {
    if (names[i] == name) return static_cast<Enum>(i);
  }
  return std::nullopt;
}

}  // namespace

std::size_t size_of(DType dtype) { return kDTypes[static_cast<std::size_t>(dtype)].size; }

std::string_view to_string(DType dtype) { return kDTypes[static_cast<std::size_t>(dtype)].name; }
std::string_view to_string(Scheme scheme) { return kSchemeNames[static_cast<std::size_t>(scheme)]; }
std::string_view to_string(Device device) { return kDevices[static_cast<std::size_t>(device)]; }

std::optional<DType> parse_compute_dtype(std::string_view name) {
  // The longer spellings are those of PyTorch, which config.json and other runtimes' options use.
  if (name == "fp32" || name == "float32" || name == "float") return DType::kF32;
  if (name == "fp16" || name == "float16" || name == "half") return DType::kF16;
  if (name == "bf16" || name == "bfloat16") return DType::kBF16;
  return std::nullopt;
}

std::optional<Scheme> parse_scheme(std::string_view name) { return parse<Scheme>(kSchemeNames, name); }
std::optional<Device> parse_device(std::string_view name) { return parse<Device>(kDevices, name); }
std::optional<EmbeddingStorage> parse_embedding(std::string_view name) {
  return parse<EmbeddingStorage>(kEmbeddings, name);
}

}  // namespace nibble
