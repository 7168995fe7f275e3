// Places of levels, and an absmax for each block of columns, which may be quantized itself.
#pragma once

#include "kernels/cuda/tiles.cuh"

namespace nibble {

/// A 4-bit layout's 256 pairs of levels, one for each byte, with a column of its own for every lane: 256 bytes apart,
/// so that a byte of codes moved up by eight bits is the address, and without bank conflicts. It is the first thing in
/// a block's shared memory, so that where that begins can be a constant of the load instruction.
template <class T>
struct PairTable {
  using Pair = std::uint32_t;
  static constexpr int kPairBytes = 4;
};
template <>
struct PairTable<float> {
  using Pair = float2;
  static constexpr int kPairBytes = 8;
};
inline constexpr int kPairTableBytes = 256 * 256;

/// Where a lane's column is, in bytes.
template <class T>
__device__ __forceinline__ std::uint32_t column_of(int lane) {
  return static_cast<std::uint32_t>(lane * PairTable<T>::kPairBytes);
}

/// By the first kThreads of a block, 256 or 512.
template <class T, int kThreads = 256>
__device__ __forceinline__ void fill_pair_table(const float (&levels)[16], char* table) {
  // A thread writes 16 bytes of each row it comes to. Their second level is always the same, as the threads write a
  // multiple of 16 rows at once.
  constexpr int kLanes = 2 * PairTable<T>::kPairBytes;  // that write a row
  constexpr int kRows = kThreads / kLanes;              // at once
  const int row = static_cast<int>(threadIdx.x) / kLanes;
  const float low = levels[row % 16];
  char* place = table + row * 256 + static_cast<int>(threadIdx.x) % kLanes * 16;
#pragma unroll
  for (int i = 0; i < 256; i += kRows, place += kRows * 256) {
    const float high = levels[row / 16 + i / 16];
    uint4 pairs;
    if constexpr (sizeof(T) == 4) {
      pairs = {__float_as_uint(high), __float_as_uint(low), __float_as_uint(high), __float_as_uint(low)};
    } else {
      const std::uint32_t pair = pack2<T>(high, low);
      pairs = {pair, pair, pair, pair};
    }
    *reinterpret_cast<uint4*>(place) = pairs;
  }
}

/// The pair of levels that byte `Byte` of `codes` stands for. `column` is the lane's in the table, in bytes; its upper
/// half says whose shared memory it is, and is zero but in clusters.
template <class T, int Byte>
__device__ __forceinline__ typename PairTable<T>::Pair look_up(std::uint32_t codes, std::uint32_t column) {
  const std::uint32_t offset = __byte_perm(codes, column, 0x7604 | (Byte << 4));
  typename PairTable<T>::Pair pair;
  if constexpr (sizeof(T) == 4) {
    asm("ld.shared.v2.f32 {%0, %1}, [%2 + %3];" : "=f"(pair.x), "=f"(pair.y) : "r"(offset), "n"(kReservedShared));
  } else {
    asm("ld.shared.u32 %0, [%1 + %2];" : "=r"(pair) : "r"(offset), "n"(kReservedShared));
  }
  return pair;
}

template <class Scale>
struct ScaleView;

template <>
struct ScaleView<F32Scale> {
  static constexpr int kNoteBytes = 8;
  using Place = const float2*;
  using Loaded = float2;
  const float* absmax;

  ScaleView() = default;
  explicit ScaleView(const F32Scale& s) : absmax(s.absmax.as<float>()) {}

  __device__ __forceinline__ Place place(int row_tile, int blocks, int lane) const {
    return reinterpret_cast<const float2*>(absmax) + static_cast<std::int64_t>(row_tile) * blocks * 8 + lane / 4;
  }
  __device__ __forceinline__ Loaded load(Place place, int row, int blocks, int block) const {
    return load_cached(place + static_cast<unsigned>((row * blocks + block) * 8));
  }
  __device__ __forceinline__ void copy(Place place, int row, int blocks, int block, std::uint32_t notes,
                                       int lane) const {
    copy_async<8>(notes + static_cast<std::uint32_t>(lane * 8),
                  place + static_cast<unsigned>((row * blocks + block) * 8));
  }
  __device__ __forceinline__ void settle(Place, std::uint32_t, int) const {}
  __device__ __forceinline__ float2 scales(const Loaded& loaded) const { return loaded; }
  __device__ float at(std::int64_t place, std::int64_t) const { return absmax[place]; }
};

template <>
struct ScaleView<NestedScale> {
  /// Two scales, and what they are made of: two codes among four bytes, two nested absmax.
  static constexpr int kNoteBytes = 8 + 3 * 4;
  struct Place {
    const uchar2* codes;
    unsigned first;  ///< block of the lane's upper row, in the file's order, which nested blocks follow
  };
  struct Loaded {
    uchar2 codes;
    float2 nested;
  };
  const std::uint8_t* absmax;
  const float* nested_absmax;
  const float* table;
  float offset;

  ScaleView() = default;
  explicit ScaleView(const NestedScale& s)
      : absmax(s.absmax.as<std::uint8_t>()),
        nested_absmax(s.nested_absmax.as<float>()),
        table(s.nested_table.as<float>()),
        offset(s.offset) {}

  __device__ __forceinline__ Place place(int row_tile, int blocks, int lane) const {
    return {reinterpret_cast<const uchar2*>(absmax) + static_cast<std::int64_t>(row_tile) * blocks * 8 + lane / 4,
            static_cast<unsigned>((row_tile * kTileRows + lane / 4) * blocks)};
  }
  __device__ __forceinline__ const float* nested(unsigned block) const {
    return nested_absmax + block / NestedScale::kBlocksize;
  }
  __device__ __forceinline__ Loaded load(const Place& place, int row, int blocks, int block) const {
    const auto further = static_cast<unsigned>(row * blocks);
    const unsigned upper = place.first + further * kTileRows + static_cast<unsigned>(block);
    return {__ldg(place.codes + (further + static_cast<unsigned>(block)) * 8),
            {__ldg(nested(upper)), __ldg(nested(upper + 8U * static_cast<unsigned>(blocks)))}};
  }
  // What scales are made of stands by kinds, a word for each lane, so that lanes write to different banks. One lane
  // makes the scales that four read.
  __device__ __forceinline__ static std::uint32_t part_at(std::uint32_t notes, int kind, int lane) {
    return notes + static_cast<std::uint32_t>(32 * 8 + (32 * kind + lane) * 4);
  }
  __device__ __forceinline__ void copy(const Place& place, int row, int blocks, int block, std::uint32_t notes,
                                       int lane) const {
    const auto further = static_cast<unsigned>(row * blocks);
    const unsigned upper = place.first + further * kTileRows + static_cast<unsigned>(block);
    copy_async<4>(part_at(notes, 0, lane), word_of(place.codes + (further + static_cast<unsigned>(block)) * 8));
    copy_async<4>(part_at(notes, 1, lane), nested(upper));
    copy_async<4>(part_at(notes, 2, lane), nested(upper + 8U * static_cast<unsigned>(blocks)));
  }
  __device__ __forceinline__ void settle(const Place& place, std::uint32_t notes, int lane) const {
    const float2 made = scales({pair_of_word(place.codes, load_shared_word(part_at(notes, 0, lane))),
                                {__uint_as_float(load_shared_word(part_at(notes, 1, lane))),
                                 __uint_as_float(load_shared_word(part_at(notes, 2, lane)))}});
    store_shared_pair(notes + static_cast<std::uint32_t>(lane * 8), made.x, made.y);
  }
  __device__ __forceinline__ float2 scales(const Loaded& l) const {
    return {__ldg(table + l.codes.x) * l.nested.x + offset, __ldg(table + l.codes.y) * l.nested.y + offset};
  }
  __device__ __forceinline__ float2 scales(const float2& made) const { return made; }
  __device__ float at(std::int64_t place, std::int64_t block) const {
    return table[absmax[place]] * nested_absmax[block / NestedScale::kBlocksize] + offset;
  }
};

template <class Scale>
struct TileView<Lut4<Scale>> {
  static constexpr int kSteps = 4;
  static constexpr bool kHasTable = true;
  static constexpr int kPieces = 1;
  static constexpr int kPiecesOn = 32;
  static constexpr int kNoteBytes = ScaleView<Scale>::kNoteBytes;

  struct Place {
    const uint4* codes;
    typename ScaleView<Scale>::Place scale;
  };
  template <class Scales>
  struct Tile {
    uint4 codes;
    Scales scales;
  };
  using Loaded = Tile<typename ScaleView<Scale>::Loaded>;
  using Read = Tile<float2>;

  const std::uint8_t* codes;
  ScaleView<Scale> scale;
  int n, k;
  int block_tiles_shift;  ///< log2(tiles a block)
  int blocks;             ///< of a row
  float levels[16];

  TileView() = default;
  explicit TileView(const Lut4<Scale>& w)
      : codes(w.codes.template as<std::uint8_t>()),
        scale(w.scale),
        n(w.n),
        k(w.k),
        block_tiles_shift(std::countr_zero(static_cast<unsigned>(w.blocksize / 64))),
        blocks((w.k / 64) >> block_tiles_shift) {
    std::copy_n(w.levels.template as<float>(), 16, levels);
  }

  __device__ __forceinline__ Place place(int row_tile, int lane) const {
    return {reinterpret_cast<const uint4*>(codes) + static_cast<std::int64_t>(row_tile) * (k / 2) + lane,
            scale.place(row_tile, blocks, lane)};
  }
  template <int>
  __device__ __forceinline__ const uint4* source(int row_tile, int lane) const {
    return place(row_tile, lane).codes;
  }
  __device__ __forceinline__ const uint4* pieces(const uint4* source, int row, int col) const {
    return source + static_cast<unsigned>(row * (k / 2) + col * kPiecesOn);
  }
  __device__ __forceinline__ Loaded load(const Place& place, int row, int col) const {
    return {load_once(pieces(place.codes, row, col)), scale.load(place.scale, row, blocks, col >> block_tiles_shift)};
  }
  __device__ __forceinline__ int pieces_down() const { return k / 2; }
  template <int kTiles>
  __device__ __forceinline__ void copy(const uint4* pieces, int tiles, std::uint32_t stage, int lane) const {
    copy_tiles<kTiles>(pieces, tiles, stage, lane);
  }
  __device__ __forceinline__ void copy_notes(const Place& place, int row, int col, std::uint32_t notes,
                                             int lane) const {
    scale.copy(place.scale, row, blocks, col >> block_tiles_shift, notes, lane);
  }
  __device__ __forceinline__ void settle_notes(const Place& place, std::uint32_t notes, int lane) const {
    scale.settle(place.scale, notes, lane);
  }
  template <int>
  __device__ __forceinline__ Read read(const Place&, int tile, std::uint32_t stage, std::uint32_t notes,
                                       int lane) const {
    const uint2 scales = load_shared_pair(note_of(notes, tile, lane));
    return {read_tile(tile, stage, lane), {__uint_as_float(scales.x), __uint_as_float(scales.y)}};
  }
  template <class Scales>
  __device__ __forceinline__ float2 scales(const Tile<Scales>& tile) const {
    return scale.scales(tile.scales);
  }
  template <class T, int Step, class Scales>
  __device__ __forceinline__ void factors(const Tile<Scales>& tile, std::uint32_t column, StepFactors<T>& f) const {
    const std::uint32_t word = word_at(tile.codes, Step);
    put<T>(f, 0, look_up<T, 0>(word, column));
    put<T>(f, 1, look_up<T, 1>(word, column));
    put<T>(f, 2, look_up<T, 2>(word, column));
    put<T>(f, 3, look_up<T, 3>(word, column));
  }
  __device__ float row_scale(int) const { return 1.0F; }
  __device__ float at(int row, int col) const {
    const std::uint8_t byte = codes[place_in_tiles(row, col & ~1, k, kSteps)];
    const int block = (col / 64) >> block_tiles_shift;
    return levels[(col & 1) != 0 ? byte & 15 : byte >> 4] *
           scale.at(place_of_absmax(row, block, blocks), static_cast<std::int64_t>(row) * blocks + block);
  }
};

}  // namespace nibble
