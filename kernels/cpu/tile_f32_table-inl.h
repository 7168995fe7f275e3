// The table of a target's loops where tiles hold fp32 alone: for all layouts but Int8Decomp, whose products are those
// of bytes. The target says before this how many sums its registers have room for (kTileSums) and up to how many rows
// of a segment go without tiles (kMostFew).
#pragma once

// In this order: each builds on the one before.
#include "kernels/cpu/tile_lines.h"
#include "kernels/cpu/tiles_lanes.h"

#include "kernels/cpu/tiles-inl.h"

#include "kernels/cpu/tile_f32-inl.h"

namespace nibble {
namespace {

template <class Layout, class T>
constexpr void use_tiles(LinearKernels<Layout, T>& kernels) {
  if constexpr (!std::is_same_v<Layout, Int8Decomp>) use_tiles_of_f32(kernels, kMostFew);
}

template <class T>
constexpr void use_tiles(DTypeKernels<T>&) {}

}  // namespace
}  // namespace nibble

#include "kernels/cpu/tile_table-inl.h"
