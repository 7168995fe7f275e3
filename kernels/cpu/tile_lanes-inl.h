// Which tiles of lanes each layout takes where VNNI multiplies bytes: codes of int8 go as bytes, all else as fp32.
#pragma once

// In this order: each builds on the one before.
#include "kernels/cpu/tile_bytes-inl.h"

#include "kernels/cpu/tile_f32-inl.h"

namespace nibble {
namespace {

template <class Layout, class T>
constexpr void use_tiles_of_lanes(LinearKernels<Layout, T>& kernels, int most_few) {
  if constexpr (std::is_same_v<Layout, Int8Decomp>) {
    use_tiles_of_bytes(kernels, most_few);
  } else if constexpr (std::is_same_v<Layout, Int8Row>) {
    use_tiles_of_digits(kernels, most_few);
  } else {
    use_tiles_of_f32(kernels, most_few);
  }
}

}  // namespace
}  // namespace nibble
