// The loops for AVX-512 (F, BW, DQ, VL).
#include "kernels/cpu/targets.h"

#if defined(__x86_64__)
// In this order: each builds on the one before.
#include "kernels/cpu/simd_avx512.h"

#include "kernels/cpu/bytes_avx512.h"

#include "kernels/cpu/operand.h"

namespace nibble {
namespace {

constexpr int kTileRows = 4;
constexpr int kTileColumns = 4;
constexpr int kFusedColumns[kFusedRows] = {4, 4, 4, 4};
constexpr int kTileSums = 16;

template <class T>
using OperandOf = F32x32;
template <class T>
using CodeOperandOf = OperandOf<T>;
template <class Layout, class T>
using CodeOperandOfOne = OperandOf<T>;

}  // namespace
}  // namespace nibble

#include "kernels/cpu/table-inl.h"

#include "kernels/cpu/tile_lines.h"
#include "kernels/cpu/tiles_lanes.h"

#include "kernels/cpu/tiles-inl.h"

#include "kernels/cpu/tile_f32-inl.h"

namespace nibble {
namespace {

constexpr int kMostFew = kFewestPanelRows - 1;

template <class Layout, class T>
constexpr void use_tiles(LinearKernels<Layout, T>& kernels) {
  if constexpr (!std::is_same_v<Layout, Int8Decomp>) use_tiles_of_f32(kernels, kMostFew);
}

template <class T>
constexpr void use_tiles(DTypeKernels<T>&) {}

}  // namespace
}  // namespace nibble

#include "kernels/cpu/tile_table-inl.h"

namespace nibble {

constinit const CpuKernels kAvx512Kernels = make_kernels_with_tiles();

}  // namespace nibble

#endif
