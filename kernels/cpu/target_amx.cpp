// The loops for AMX, of Intel's processors: rows of short segments as on AVX-512, those of longer ones through tiles.
#include "kernels/cpu/targets.h"

#if defined(__x86_64__)
// In this order: each builds on the one before.
#include "kernels/cpu/simd_avx512.h"

#include "kernels/cpu/bytes_vnni.h"

#include "kernels/cpu/operand.h"
#include "kernels/cpu/operand_bf16.h"
#include "kernels/cpu/operand_words.h"

#include "kernels/cpu/operand_digits.h"
#include "kernels/cpu/tiles_amx.h"

namespace nibble {
namespace {

constexpr int kTileRows = 4;
constexpr int kTileColumns = 4;
constexpr int kFusedColumns[kFusedRows] = {1, 4, 4, 4};

template <class T>
using OperandOf = F32x32;
/// Of weights whose factors are codes or levels.
template <class T>
using CodeOperandOf = std::conditional_t<std::is_same_v<T, float>, F32x32, I16x32>;
/// Of one row of x; its sums are those of CodeOperandOf, to the bit.
template <class Layout, class T>
struct OfOne {
  using CodeOperand = CodeOperandOf<T>;
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

#include "kernels/cpu/tiles-inl.h"

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
constexpr void use_tiles_of_bytes(LinearKernels<Layout, T>& kernels) {
  kernels.many = {kTile, turn_of_tiles<ByteTiles<1>>, pack_tile_of_bytes<Layout, T>,
                  multiply_by_tiles_of_bytes<Layout, T>};
  kernels.most_few = kMostFew;
}

template <class Layout, class T>
constexpr void use_tiles(LinearKernels<Layout, T>& kernels) {
  if constexpr (std::is_same_v<Layout, Int8Decomp>) {
    use_tiles_of_bytes(kernels);
  } else if constexpr (std::is_same_v<Layout, Int8Row>) {
    kernels.many = {kTile, turn_of_tiles<DigitTiles<T>>, pack_tile_of_digits<Layout, T>,
                    multiply_by_tiles_of_digits<Layout, T>};
    kernels.most_few = kMostFew;
  } else {
    kernels.many = {kTile, turn_of_tiles<TilesOf<Layout, T>>, pack_tile<Layout, T>, multiply_by_tiles<Layout, T>};
    kernels.most_few = kMostFewOf<Layout, T>;
  }
}

template <class T, class... Layouts>
constexpr void use_tiles(LayoutTable<T, std::variant<Layouts...>>& table) {
  (use_tiles(static_cast<LinearKernels<Layouts, T>&>(table)), ...);
}

template <class T>
constexpr void use_tiles(DTypeKernels<T>& kernels) {
  use_tiles(static_cast<LayoutTable<T, Weight>&>(kernels));
  use_tiles_of_bytes(kernels.int8_activations);
  kernels.attend_many = {kTileQueries, attend_in_tiles<T>};
  kernels.most_few_queries = kMostFew;
}

constexpr CpuKernels make_kernels_with_tiles() {
  CpuKernels kernels = make_kernels();
  use_tiles<float>(kernels);
  use_tiles<Half>(kernels);
  use_tiles<BFloat16>(kernels);
  return kernels;
}

}  // namespace

constinit const CpuKernels kAmxKernels = make_kernels_with_tiles();

}  // namespace nibble

#endif
