// The loops for AMX, of Intel's processors: rows of short segments as on AVX-512, those of longer ones through tiles.
#include "kernels/cpu/targets.h"

// In this order: each builds on the one before.
#include "kernels/cpu/simd_avx512.h"

#include "kernels/cpu/halves_blended.h"

#include "kernels/cpu/bytes_vnni.h"

#include "kernels/cpu/operand.h"
#include "kernels/cpu/operand_bf16.h"
#include "kernels/cpu/operand_words.h"

#include "kernels/cpu/operand_digits.h"

namespace nibble {
namespace {

constexpr int kTileRows = 4;
constexpr int kTileColumns = 4;
/// Rows of w at once for 1, 2, ... rows of x.
template <class Layout, class Operand>
constexpr int kFusedColumns[kFusedRows] = {1, 4, 4, 4};

template <class T>
using OperandOf = F32x32;
/// Of weights whose factors are codes or levels.
template <class Layout, class T>
using CodeOperandOf = std::conditional_t<std::is_same_v<T, float>, F32x32, I16x32>;
/// Of one row of x; its sums are those of CodeOperandOf, to the bit.
template <class Layout, class T>
struct OfOne {
  using CodeOperand = CodeOperandOf<Layout, T>;
};
template <class Zero, class T>
struct OfOne<Int4Group<Zero>, T> {
  using CodeOperand = std::conditional_t<std::is_same_v<T, float>, F32x32, Digits64>;
};
template <class Layout, class T>
using CodeOperandOfOne = typename OfOne<Layout, T>::CodeOperand;

}  // namespace
}  // namespace nibble

#include "kernels/cpu/table-inl.h"

#include "kernels/cpu/tile_lines.h"
#include "kernels/cpu/tiles_amx.h"

#include "kernels/cpu/tiles-inl.h"

#include "kernels/cpu/tile_bf16-inl.h"
#include "kernels/cpu/tile_bytes-inl.h"

#include "kernels/cpu/tile_attend-inl.h"

namespace nibble {
namespace {

/// Rows of longer segments are faster through tiles: six take 0.6 to 0.8 of the time in lanes, sixteen 0.3 to 0.5.
/// Codes of 4 bits are looked up once for each term, which takes that many times as long.
constexpr int kMostFew = kFusedRows;
template <class Layout, class T>
constexpr int kMostFewOf = GroupDecoder<Layout>::kScaled ? TilesOf<Layout, T>::kWeightTerms* kMostFew : kMostFew;

template <class Layout, class T>
constexpr void use_tiles(LinearKernels<Layout, T>& kernels) {
  if constexpr (std::is_same_v<Layout, Int8Decomp>) {
    use_tiles_of_bytes(kernels, kMostFew);
  } else if constexpr (std::is_same_v<Layout, Int8Row>) {
    use_tiles_of_digits(kernels, kMostFew);
  } else {
    use_tiles_of_bf16(kernels, kMostFewOf<Layout, T>);
  }
}

template <class T>
constexpr void use_tiles(DTypeKernels<T>& kernels) {
  use_tiles_of_bytes(kernels.int8_activations, kMostFew);
  kernels.attend_many = {kTileQueries, attend_in_tiles<T>};
  kernels.most_few_queries = kMostFew;
}

}  // namespace
}  // namespace nibble

#include "kernels/cpu/tile_table-inl.h"

namespace nibble {

constinit const CpuKernels kAmxKernels = make_kernels_with_tiles();

}  // namespace nibble
