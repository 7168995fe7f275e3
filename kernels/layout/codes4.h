// 4-bit codes, packed two a byte over the flattened weight: the first of a pair in the high nibble.
#pragma once

#include "kernels/numeric.h"

namespace nibble {

NIBBLE_HD int code4(const std::uint8_t* codes, std::int64_t flat) {
  const int byte = codes[flat >> 1];
  return (flat & 1) != 0 ? byte & 15 : byte >> 4;
}

}  // namespace nibble
