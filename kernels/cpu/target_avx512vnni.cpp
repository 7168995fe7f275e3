// The loops for AVX-512 with VNNI: few rows of 16 bits are multiplied by codes as words, and rows of long segments by
// int8 weights as digits. All else goes as on AVX-512.
#include "kernels/cpu/targets.h"

// In this order: each builds on the one before.
#include "kernels/cpu/simd_avx512.h"

#include "kernels/cpu/halves_blended.h"

#include "kernels/cpu/bytes_vnni.h"

#include "kernels/cpu/operand.h"
#include "kernels/cpu/operand_words.h"

namespace nibble {
namespace {

constexpr int kTileRows = 4;
constexpr int kTileColumns = 4;
/// Rows of w at once for 1, 2, ... rows of x.
template <class Layout, class Operand>
constexpr int kFusedColumns[kFusedRows] = {1, 4, 4, 4};
/// Sums in tiles that there are registers for; and rows of a segment up to which lanes are faster than tiles.
constexpr int kTileSums = 16, kMostFew = 12;

template <class T>
using OperandOf = F32x32;
/// Of weights whose factors are codes or levels.
template <class Layout, class T>
using CodeOperandOf = std::conditional_t<std::is_same_v<T, float>, F32x32, I16x32>;
template <class Layout, class T>
using CodeOperandOfOne = CodeOperandOf<Layout, T>;

}  // namespace
}  // namespace nibble

#include "kernels/cpu/table-inl.h"

#include "kernels/cpu/tile_lines.h"
#include "kernels/cpu/tiles_lanes.h"
#include "kernels/cpu/tiles_lanes_vnni.h"

#include "kernels/cpu/tiles-inl.h"

#include "kernels/cpu/tile_lanes-inl.h"

namespace nibble {
namespace {

template <class Layout, class T>
constexpr void use_tiles(LinearKernels<Layout, T>& kernels) {
  use_tiles_of_lanes(kernels, kMostFew);
}

template <class T>
constexpr void use_tiles(DTypeKernels<T>& kernels) {
  use_tiles_of_bytes(kernels.int8_activations, kMostFew);
}

}  // namespace
}  // namespace nibble

#include "kernels/cpu/tile_table-inl.h"

namespace nibble {

constinit const CpuKernels kAvx512VnniKernels = make_kernels_with_tiles();

}  // namespace nibble
