// Whole numbers of eight bits, and a scale for each row.
#pragma once

#include "kernels/cuda/tiles.cuh"

namespace nibble {

/// Two int8 of `bytes` (0 and 1, or 2 and 3) as factors.
template <class T, bool kUpper>
__device__ __forceinline__ auto widen_int8(std::uint32_t bytes) {
  if constexpr (sizeof(T) == 4) {
    // 2^23 plus an unsigned byte has the byte as its last bits.
    const std::uint32_t u = bytes ^ 0x80808080U;
    constexpr float kBias = 8388608.0F + 128.0F;
    return float2{__uint_as_float(__byte_perm(u, 0x4b000000U, kUpper ? 0x7552 : 0x7550)) - kBias,
                  __uint_as_float(__byte_perm(u, 0x4b000000U, kUpper ? 0x7553 : 0x7551)) - kBias};
  } else if constexpr (std::is_same_v<T, Half>) {
    // 1024 plus an unsigned byte, likewise.
    const std::uint32_t v = __byte_perm(bytes ^ 0x80808080U, 0x64646464U, kUpper ? 0x4342 : 0x4140);
    const std::uint32_t bias = 0x64806480U;
    const __half2 d = __hsub2(*reinterpret_cast<const __half2*>(&v), *reinterpret_cast<const __half2*>(&bias));
    return *reinterpret_cast<const std::uint32_t*>(&d);
  } else {
    // bf16 has room for seven bits behind 128; the eighth, the sign, makes 256 of the 128 that is subtracted.
    const std::uint32_t v = __byte_perm(bytes, 0x43434343U, kUpper ? 0x4342 : 0x4140);
    const std::uint32_t low = v & 0xff7fff7fU, sign = v & 0xff80ff80U;
    const __nv_bfloat162 d =
        __hsub2(*reinterpret_cast<const __nv_bfloat162*>(&low), *reinterpret_cast<const __nv_bfloat162*>(&sign));
    return *reinterpret_cast<const std::uint32_t*>(&d);
  }
}

template <>
struct TileView<Int8Row> {
  static constexpr int kSteps = 2;
  static constexpr bool kHasTable = false;
  static constexpr int kPieces = 1;
  static constexpr int kPiecesOn = 32;
  static constexpr int kNoteBytes = 0;

  using Place = const uint4*;
  using Loaded = uint4;
  using Read = Loaded;
  /// As it is stored, which nothing waits for where it is fetched ahead.
  struct RowScale {
    float stored;
    __device__ operator float() const { return stored * Int8Row::View::kInverse127; }
  };

  const std::int8_t* codes;
  const float* scb;
  int n, k;

  TileView() = default;
  explicit TileView(const Int8Row& w) : codes(w.codes.as<std::int8_t>()), scb(w.scb.as<float>()), n(w.n), k(w.k) {}

  __device__ __forceinline__ Place place(int row_tile, int lane) const {
    return reinterpret_cast<const uint4*>(codes) + static_cast<std::int64_t>(row_tile) * k + lane;
  }
  template <int>
  __device__ __forceinline__ const uint4* source(int row_tile, int lane) const {
    return place(row_tile, lane);
  }
  __device__ __forceinline__ const uint4* pieces(const uint4* source, int row, int col) const {
    return source + static_cast<unsigned>(row * k + col * kPiecesOn);
  }
  __device__ __forceinline__ Loaded load(Place place, int row, int col) const {
    return load_once(pieces(place, row, col));
  }
  __device__ __forceinline__ int pieces_down() const { return k; }
  template <int kTiles>
  __device__ __forceinline__ void copy(const uint4* pieces, int tiles, std::uint32_t stage, int lane) const {
    copy_tiles<kTiles>(pieces, tiles, stage, lane);
  }
  template <int>
  __device__ __forceinline__ Loaded read(Place, int tile, std::uint32_t stage, std::uint32_t, int lane) const {
    return read_tile(tile, stage, lane);
  }
  template <class T, int Step>
  __device__ __forceinline__ void factors(const Loaded& loaded, std::uint32_t, StepFactors<T>& f) const {
    const std::uint32_t first = Step == 0 ? loaded.x : loaded.z, last = Step == 0 ? loaded.y : loaded.w;
    put<T>(f, 0, widen_int8<T, false>(first));
    put<T>(f, 1, widen_int8<T, true>(first));
    put<T>(f, 2, widen_int8<T, false>(last));
    put<T>(f, 3, widen_int8<T, true>(last));
  }
  __device__ __forceinline__ float2 scales(const Loaded&) const { return {1.0F, 1.0F}; }
  __device__ RowScale row_scale(int row) const { return {scb[row]}; }
  __device__ float at(int row, int col) const {
    const std::int64_t place = 2 * place_in_tiles(row, col & ~1, k, kSteps) + (col & 1);
    return static_cast<float>(codes[place]) * scb[row] * Int8Row::View::kInverse127;
  }
};

template <>
struct TileView<Int8Decomp> : TileView<Int8Row> {
  using TileView<Int8Row>::TileView;
};

}  // namespace nibble
