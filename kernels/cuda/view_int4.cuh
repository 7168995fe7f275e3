// Numbers of four bits, and for each group of columns a scale and a zero point.
#pragma once

#include "kernels/cuda/tiles.cuh"

namespace nibble {

/// A number from 0 to 127 behind the exponent of T whose last bit counts 1, in both halves: 1024 + i in fp16, 128 + i
/// in bf16.
template <class T>
__device__ __forceinline__ std::uint32_t behind_exponent(std::uint32_t i) {
  return (std::is_same_v<T, Half> ? 0x64006400U : 0x43004300U) + i * 0x00010001U;
}

/// The codes in the low nibbles of both halves of `word`, less `zero`, as factors: exact.
template <class T>
__device__ __forceinline__ std::uint32_t widen_low(std::uint32_t word, std::uint32_t zero) {
  const std::uint32_t v = and_or(word, 0x000f000fU, behind_exponent<T>(0)), bias = behind_exponent<T>(zero);
  if constexpr (std::is_same_v<T, Half>) {
    const __half2 d = __hsub2(*reinterpret_cast<const __half2*>(&v), *reinterpret_cast<const __half2*>(&bias));
    return *reinterpret_cast<const std::uint32_t*>(&d);
  } else {
    const __nv_bfloat162 d =
        __hsub2(*reinterpret_cast<const __nv_bfloat162*>(&v), *reinterpret_cast<const __nv_bfloat162*>(&bias));
    return *reinterpret_cast<const std::uint32_t*>(&d);
  }
}

/// The same of the nibbles above those. In fp16 they are sixteen times too large where they stand, and need not be
/// moved: (1024 + 16 code) / 16 - (64 + zero).
template <class T>
__device__ __forceinline__ std::uint32_t widen_next(std::uint32_t word, std::uint32_t zero) {
  if constexpr (std::is_same_v<T, Half>) {
    const std::uint32_t v = and_or(word, 0x00f000f0U, behind_exponent<Half>(0));
    const std::uint32_t sixteenth = 0x2c002c00U, bias = 0xd400d400U + zero * 0x00100010U;
    const __half2 d = __hfma2(*reinterpret_cast<const __half2*>(&v), *reinterpret_cast<const __half2*>(&sixteenth),
                              *reinterpret_cast<const __half2*>(&bias));
    return *reinterpret_cast<const std::uint32_t*>(&d);
  } else {
    return widen_low<T>(word >> 4, zero);
  }
}

/// Zero points of rows g and g + 8.
template <class Zero>
struct ZeroView;

template <>
struct ZeroView<SymmetricZero> {
  struct Place {};
  struct Loaded {
    static constexpr std::uint32_t x = 8, y = 8;
  };

  ZeroView() = default;
  explicit ZeroView(const SymmetricZero&) {}

  __device__ __forceinline__ Place place(std::int64_t) const { return {}; }
  __device__ __forceinline__ Loaded load(Place, unsigned) const { return {}; }
  __device__ __forceinline__ void copy(Place, unsigned, std::uint32_t) const {}
  __device__ __forceinline__ Loaded read(Place, std::uint32_t) const { return {}; }
  __device__ float at(std::int64_t) const { return 8.0F; }
};

template <>
struct ZeroView<ZeroPoints> {
  using Place = const uchar2*;
  using Loaded = uchar2;
  const std::uint8_t* zeros;

  ZeroView() = default;
  explicit ZeroView(const ZeroPoints& z) : zeros(z.zeros.as<std::uint8_t>()) {}

  __device__ __forceinline__ Place place(std::int64_t pair) const {
    return reinterpret_cast<const uchar2*>(zeros) + pair;
  }
  __device__ __forceinline__ Loaded load(Place place, unsigned pair) const { return __ldg(place + pair); }
  __device__ __forceinline__ void copy(Place place, unsigned pair, std::uint32_t notes) const {
    copy_async<4>(notes, word_of(place + pair));
  }
  __device__ __forceinline__ Loaded read(Place place, std::uint32_t word) const { return pair_of_word(place, word); }
  __device__ float at(std::int64_t place) const { return static_cast<float>(zeros[place]); }
};

/// Factors are codes less their zero point: whole numbers from -15 to 15, exact in every dtype.
template <class Zero>
struct TileView<Int4Group<Zero>> {
  static constexpr int kSteps = 4;
  static constexpr bool kHasTable = false;
  static constexpr int kPieces = 1;
  static constexpr int kPiecesOn = 32;
  static constexpr int kNoteBytes = 8;  // two scales, two zero points among four bytes

  struct Place {
    const uint4* codes;
    const std::uint32_t* scales;
    typename ZeroView<Zero>::Place zeros;
  };
  struct Loaded {
    uint4 codes;
    std::uint32_t scales;
    typename ZeroView<Zero>::Loaded zeros;
  };
  using Read = Loaded;

  const std::uint32_t* codes;
  const Half* group_scales;
  ZeroView<Zero> zeros;
  int n, k;
  int groups;             ///< of a row
  int group_tiles_shift;  ///< log2(tiles a group), rounded up

  TileView() = default;
  explicit TileView(const Int4Group<Zero>& w)
      : codes(w.codes.template as<std::uint32_t>()),
        group_scales(w.scales.template as<Half>()),
        zeros(w.zero),
        n(w.n),
        k(w.k),
        groups(w.groups()),
        group_tiles_shift(w.group_shift() - 6) {}

  __device__ __forceinline__ Place place(int row_tile, int lane) const {
    const std::int64_t pair = static_cast<std::int64_t>(row_tile) * groups * 8 + lane / 4;
    return {reinterpret_cast<const uint4*>(codes) + static_cast<std::int64_t>(row_tile) * (k / 2) + lane,
            reinterpret_cast<const std::uint32_t*>(group_scales) + pair, zeros.place(pair)};
  }
  template <int>
  __device__ __forceinline__ const uint4* source(int row_tile, int lane) const {
    return place(row_tile, lane).codes;
  }
  __device__ __forceinline__ const uint4* pieces(const uint4* source, int row, int col) const {
    return source + static_cast<unsigned>(row * (k / 2) + col * kPiecesOn);
  }
  __device__ __forceinline__ unsigned pair_of(int row, int col) const {
    return static_cast<unsigned>((row * groups + (col >> group_tiles_shift)) * 8);
  }
  __device__ __forceinline__ Loaded load(const Place& place, int row, int col) const {
    const unsigned pair = pair_of(row, col);
    return {load_once(pieces(place.codes, row, col)), __ldg(place.scales + pair), zeros.load(place.zeros, pair)};
  }
  __device__ __forceinline__ int pieces_down() const { return k / 2; }
  template <int kTiles>
  __device__ __forceinline__ void copy(const uint4* pieces, int tiles, std::uint32_t stage, int lane) const {
    copy_tiles<kTiles>(pieces, tiles, stage, lane);
  }
  __device__ __forceinline__ void copy_notes(const Place& place, int row, int col, std::uint32_t notes,
                                             int lane) const {
    const unsigned pair = pair_of(row, col);
    notes += static_cast<std::uint32_t>(lane * 8);
    copy_async<4>(notes, place.scales + pair);
    zeros.copy(place.zeros, pair, notes + 4);
  }
  __device__ __forceinline__ void settle_notes(const Place&, std::uint32_t, int) const {}
  template <int>
  __device__ __forceinline__ Loaded read(const Place& place, int tile, std::uint32_t stage, std::uint32_t notes,
                                         int lane) const {
    const uint2 v = load_shared_pair(note_of(notes, tile, lane));
    return {read_tile(tile, stage, lane), v.x, zeros.read(place.zeros, v.y)};
  }
  __device__ __forceinline__ float2 scales(const Loaded& loaded) const { return unpack2<Half>(loaded.scales); }
  template <class T, int Step>
  __device__ __forceinline__ void factors(const Loaded& loaded, std::uint32_t column, StepFactors<T>& f) const {
    if constexpr (sizeof(T) == 4) {
      std::uint32_t halves[4];
      factors<Half, Step>(loaded, column, halves);
#pragma unroll
      for (int i = 0; i < 4; ++i) f.v[i] = unpack2<Half>(halves[i]);
    } else {
      const std::uint32_t word = word_at(loaded.codes, Step);
      f[0] = widen_low<T>(word, loaded.zeros.x), f[1] = widen_next<T>(word, loaded.zeros.y);
      f[2] = widen_low<T>(word >> 8, loaded.zeros.x), f[3] = widen_next<T>(word >> 8, loaded.zeros.y);
    }
  }
  __device__ float row_scale(int) const { return 1.0F; }
  __device__ float at(int row, int col) const {
    const std::int64_t pair = place_in_tiles(row, col & ~1, k, kSteps);
    const std::uint32_t code = codes[pair / 4] >> (pair % 4 * 4 + (col & 1) * 16) & 15;
    const std::int64_t group = place_of_absmax(row, (col / 64) >> group_tiles_shift, groups);
    return (static_cast<float>(code) - zeros.at(group)) * to_f32(group_scales[group]);
  }
};

}  // namespace nibble
