// The loops for AVX2 with FMA and F16C.
#include "kernels/cpu/targets.h"

// In this order: each builds on the one before.
#include "kernels/cpu/simd_avx2.h"

#include "kernels/cpu/bytes_avx2.h"

#include "kernels/cpu/operand.h"

namespace nibble {
namespace {

constexpr int kTileRows = 4;
constexpr int kTileColumns = 1;
/// Rows of w at once for 1, 2, ... rows of x: as there are registers for.
template <class Layout, class Operand>
constexpr int kFusedColumns[kFusedRows] = {kIsDense<Layout> ? 4 : 1, 2, kIsDense<Layout> ? 2 : 1, 1};
/// Sums in tiles that there are registers for; and rows of a segment up to which lanes are faster than tiles.
constexpr int kTileSums = 4, kMostFew = 8;

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

constinit const CpuKernels kAvx2Kernels = make_kernels_with_tiles();

}  // namespace nibble
