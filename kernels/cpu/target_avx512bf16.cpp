// The loops for AVX-512 with BF16, VBMI and VNNI: bf16 activations are multiplied as they are, by weights rounded to
// bf16, and few rows in fp16 by codes of 4 bits as words of 16. Rows of long segments go through tiles of bf16 too, of
// fp32 in other dtypes.
#include "kernels/cpu/targets.h"

// In this order: each builds on the one before.
#include "kernels/cpu/simd_avx512.h"

#include "kernels/cpu/halves_embedded.h"

#include "kernels/cpu/bytes_vnni.h"

#include "kernels/cpu/operand.h"
#include "kernels/cpu/operand_bf16.h"
#include "kernels/cpu/operand_words.h"

namespace nibble {
namespace {

constexpr int kTileRows = 4;
constexpr int kTileColumns = 4;
/// Rows of w at once for 1, 2, ... rows of x. Plain weights that go as fp32 are read one row after another. Beside four
/// rows of x registers are short for four sums of each and what pairs of bf16, or double-quantized absmax, need
/// besides.
template <class Layout, class Operand>
constexpr bool kNeedsRoom = std::is_same_v<Operand, Bf16x32> || std::is_same_v<Layout, Lut4<NestedScale>>;
template <class Layout, class Operand>
constexpr int kFusedColumns[kFusedRows] = {kIsDense<Layout> && !std::is_same_v<Operand, Bf16x32> ? 1 : 4, 4, 4,
                                           kNeedsRoom<Layout, Operand> ? 2 : 4};
/// A quarter of the first-level cache for one row of x, half of it for more: NOTES, 2026-11-30 and 2026-12-01.
template <class T, class Operand>
constexpr int kShortOfX<Dense<T>, Operand>[kFusedRows] = {8192, 16384, 0, 0};
template <class T>
constexpr int kShortOfX<Dense<T>, Bf16x32>[kFusedRows] = {8192, 16384, 16384, 16384};
/// Sums in tiles that there are registers for; and rows of a segment up to which lanes are faster than tiles.
constexpr int kTileSums = 16, kMostFew = 12;

template <class T>
using OperandOf = std::conditional_t<std::is_same_v<T, BFloat16>, Bf16x32, F32x32>;
/// Of weights whose factors are codes or levels: with those of 4 bits fp16 goes as words. Beside bytes fp32 is as fast,
/// and bf16 has instructions of its own.
template <class Layout, class T>
struct OfCodes {
  using Operand = OperandOf<T>;
};
template <class Scale>
struct OfCodes<Lut4<Scale>, Half> {
  using Operand = I16x32;
};
template <class Zero>
struct OfCodes<Int4Group<Zero>, Half> {
  using Operand = I16x32;
};
template <class Layout, class T>
using CodeOperandOf = typename OfCodes<Layout, T>::Operand;
template <class Layout, class T>
using CodeOperandOfOne = CodeOperandOf<Layout, T>;

}  // namespace
}  // namespace nibble

#include "kernels/cpu/table-inl.h"

#include "kernels/cpu/tile_lines.h"
#include "kernels/cpu/tiles_lanes.h"
#include "kernels/cpu/tiles_lanes_bf16.h"
#include "kernels/cpu/tiles_lanes_vnni.h"

namespace nibble {
namespace {

/// In bf16.
template <class Layout, class T>
using TilesOf = Bf16Tiles;

}  // namespace
}  // namespace nibble

#include "kernels/cpu/tiles-inl.h"

#include "kernels/cpu/tile_bf16-inl.h"
#include "kernels/cpu/tile_lanes-inl.h"

#include "kernels/cpu/tile_attend-inl.h"

namespace nibble {
namespace {

template <class Layout, class T>
constexpr void use_tiles(LinearKernels<Layout, T>& kernels) {
  if constexpr (std::is_same_v<T, BFloat16> && !std::is_same_v<Layout, Int8Decomp>) {
    use_tiles_of_bf16(kernels, kMostFew);
  } else {
    use_tiles_of_lanes(kernels, kMostFew);
  }
}

template <class T>
constexpr void use_tiles(DTypeKernels<T>& kernels) {
  use_tiles_of_bytes(kernels.int8_activations, kMostFew);
  if constexpr (std::is_same_v<T, BFloat16>) {
    kernels.attend_many = {kTileQueries, attend_in_tiles<T>};
    kernels.most_few_queries = kMostFew;
  }
}

}  // namespace
}  // namespace nibble

#include "kernels/cpu/tile_table-inl.h"

namespace nibble {

constinit const CpuKernels kAvx512Bf16Kernels = make_kernels_with_tiles();

}  // namespace nibble
