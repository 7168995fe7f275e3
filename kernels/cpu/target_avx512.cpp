// The loops for AVX-512 (F, BW, DQ, VL).
#include "kernels/cpu/targets.h"

// In this order: each builds on the one before.
#include "kernels/cpu/simd_avx512.h"

#include "kernels/cpu/halves_blended.h"

#include "kernels/cpu/bytes_avx512.h"

#include "kernels/cpu/operand.h"

namespace nibble {
namespace {

constexpr int kTileRows = 4;
constexpr int kTileColumns = 4;
/// Rows of w at once for 1, 2, ... rows of x. Plain weights are read one row after another.
template <class Layout, class Operand>
constexpr int kFusedColumns[kFusedRows] = {kIsDense<Layout> ? 1 : 4, 4, 4, 4};
/// Sums in tiles that there are registers for; and rows of a segment up to which lanes are faster than tiles.
constexpr int kTileSums = 16, kMostFew = 12;

template <class T>
using OperandOf = F32x32;
template <class Layout, class T>
using CodeOperandOf = OperandOf<T>;
template <class Layout, class T>
using CodeOperandOfOne = OperandOf<T>;

}  // namespace
}  // namespace nibble

#include "kernels/cpu/table-inl.h"

#include "kernels/cpu/tile_f32_table-inl.h"

namespace nibble {

constinit const CpuKernels kAvx512Kernels = make_kernels_with_tiles();

}  // namespace nibble
