#include "models/checkpoint/byte_size.h"

namespace nibble {

std::optional<std::uint64_t> byte_size(DType dtype, std::span<const std::int64_t> shape) {
  std::int64_t size = 1;
  for (const std::int64_t dimension : shape) {
    if (dimension < 0 || __builtin_mul_overflow(size, dimension, &size)) return std::nullopt;
  }
  if (__builtin_mul_overflow(size, static_cast<std::int64_t>(size_of(dtype)), &size)) return std::nullopt;
  return static_cast<std::uint64_t>(size);
}

std::string shape_text(std::span<const std::int64_t> shape) {
  std::string text = "[";
  for (const std::int64_t dimension : shape) {
    if (text.size() > 1) text += ", ";
    text += std::to_string(dimension);
  }
  return text + "]";
}

}  // namespace nibble
