// The size of a tensor's contents, computed so that a hostile shape cannot wrap around.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "nibble/types.h"

namespace nibble {

/// Product of the dimensions times the element size; nothing when a dimension is negative or the product, taken from
/// the left, passes 2^63 - 1.
std::optional<std::uint64_t> byte_size(DType dtype, std::span<const std::int64_t> shape);

/// "[2, 3]", for messages.
std::string shape_text(std::span<const std::int64_t> shape);

}  // namespace nibble
