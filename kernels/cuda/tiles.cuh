// The order in which quantized weights stand on a GPU, and how a warp's lanes turn them into factors.
//
// A tile is 16 rows and 64 (4-bit) or 32 (int8) columns: 512 bytes, 16 for each lane of a warp, so that one load brings
// a warp a tile. Tiles of the same rows stand one behind the other. Lane 4 g + t holds rows g and g + 8 and a run of
// 4 * kSteps columns from t * 4 * kSteps on: step j of a tile takes four of them, the first two as columns 2t, 2t + 1
// of the matrix that mma.m16n8k16 multiplies, the last two as columns 2t + 8, 2t + 9. Which column goes where makes no
// difference to a sum, as long as x is read in the same order; and so x is read in its own order, in one piece a lane.
//
//   lane's 16 bytes:   step 0 [ g:01 | g+8:01 | g:23 | g+8:23 ]  step 1 ...     (01, 23: pairs of columns)
//
// What is four bits of a number rather than the place of a level (int4) is taken apart with masks. So the two codes of
// pair i of a word's four are its nibbles i and i + 4: the low bits of a register's halves, once moved down.
//
// The absmax of rows g and g + 8 stand side by side, for each tile's rows and block of columns:
// [n/16][k/blocksize][8][2]; and so do scales and zero points of groups. Plain weights stay row by row, as cuBLAS reads
// them: a lane reads its runs from two rows.
//
// A matrix whose shape has no whole tiles, or whose blocks do not begin where rows do, stays as it is on a CPU and goes
// the plain way (linear_plain.cuh).
#pragma once

#include <algorithm>

#include "kernels/cuda/device.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/layout/weight.h"

namespace nibble {

inline constexpr int kTileRows = 16;

/// Whether a weight on a GPU stands in tiles.
template <class T>
bool is_tiled(const Dense<T>& w) {
  return w.n % kTileRows == 0 && w.k % 32 == 0;
}
inline bool is_tiled(const Int8Row& w) { return w.n % kTileRows == 0 && w.k % 32 == 0; }
template <class Scale>
bool is_tiled(const Lut4<Scale>& w) {
  return w.n % kTileRows == 0 && w.k % 64 == 0 && w.blocksize % 64 == 0 && w.k % w.blocksize == 0;
}

template <class Zero>
bool is_tiled(const Int4Group<Zero>& w) {
  return w.n % kTileRows == 0 && w.k % 64 == 0 && w.group_size % 64 == 0;
}

/// The place of a pair of columns in tiles of `steps` steps, counted in pairs. `col` is even.
__host__ __device__ inline std::int64_t place_in_tiles(int row, int col, int k, int steps) {
  const int cols = 16 * steps;
  const int run = 4 * steps;
  const std::int64_t tile = static_cast<std::int64_t>(row / kTileRows) * (k / cols) + col / cols;
  const int c = col % cols;
  const int lane = (row % 8) * 4 + c / run;
  const int pair = (c % run) / 4 * 4 + (row % kTileRows) / 8 + (c % 4) / 2 * 2;
  return tile * (8 * cols) + lane * run + pair;
}

/// The place of a block's absmax; `blocks` is k / blocksize.
__host__ __device__ inline std::int64_t place_of_absmax(int row, int block, int blocks) {
  return (static_cast<std::int64_t>(row / kTileRows) * blocks + block) * kTileRows + (row % 8) * 2 +
         (row % kTileRows) / 8;
}

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

template <class T>
__device__ __forceinline__ void fill_pair_table(const float (&levels)[16], char* table) {
  // A thread writes 16 bytes of each row it comes to. Their second level is always the same, as blocks have 256
  // threads, which write a multiple of 16 rows at once.
  constexpr int kLanes = 2 * PairTable<T>::kPairBytes;  // that write a row
  constexpr int kRows = 256 / kLanes;                   // at once
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

// What a lane holds of one step of a tile: four registers of two 16-bit factors as mma takes them, or eight fp32.
struct Factors32 {
  float2 v[4];  ///< row g: 0 and 2, row g + 8: 1 and 3
};

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

/// Factors of one step.
template <class T>
using StepFactors = std::conditional_t<sizeof(T) == 4, Factors32, std::uint32_t[4]>;

template <class T, class V>
__device__ __forceinline__ void put(StepFactors<T>& factors, int i, V value) {
  if constexpr (sizeof(T) == 4) {
    factors.v[i] = value;
  } else {
    factors[i] = value;
  }
}

/// Tiles of a row that go through shared memory together, to one warp: a batch.
inline constexpr int kBatch = 4;

/// What kernels need to know of a weight in tiles. A Place is where a lane stands in a row of tiles; `load` fetches
/// what it needs of the tile that is some rows further down and some columns on. Or it goes through shared memory:
/// lanes begin at their `source`, `pieces` are those of a batch, kPiecesOn from tile to tile; `copy` sends so many of
/// the batch's tiles (kPieces times 16 bytes for each lane and tile) to a stage, `copy_notes` the kNoteBytes that lanes
/// with the same rows share (scales), and `read` makes of them what `load` does, when all lanes' copies have come.
/// `factors` are those of one step (`column`: column_of the lane), `scales` what their products with rows g and g + 8
/// are multiplied by, `row_scale` what a row's sum is at the end. `at` is one weight, for whom speed is no matter.
template <class Layout>
struct TileView;

/// Tiles whose lanes' pieces stand beside each other, in memory as in shared memory.
__device__ __forceinline__ void copy_tiles(const uint4* pieces, int tiles, std::uint32_t stage, int lane) {
#pragma unroll
  for (int i = 0; i < kBatch; ++i) {
    if (i < tiles) copy_async<16>(stage + static_cast<std::uint32_t>(i * 32 + lane) * 16, pieces + i * 32);
  }
}
__device__ __forceinline__ uint4 read_tile(int tile, std::uint32_t stage, int lane) {
  return load_shared(stage + static_cast<std::uint32_t>(tile * 32 + lane) * 16);
}

template <class Value>
struct TileView<Dense<Value>> {
  static constexpr int kSteps = 2;
  static constexpr bool kHasTable = false;
  static constexpr int kWords = static_cast<int>(sizeof(Value)) * 8 / 16;
  static constexpr int kPieces = 2 * kWords;
  static constexpr int kPiecesOn = 4 * kWords;
  static constexpr int kNoteBytes = 0;

  using Place = const Value*;
  struct Loaded {
    uint4 upper[kWords], lower[kWords];
  };

  const Value* values;
  int n, k;

  TileView() = default;
  explicit TileView(const Dense<Value>& w) : values(w.values.template as<Value>()), n(w.n), k(w.k) {}

  __device__ __forceinline__ Place place(int row_tile, int lane) const {
    return values + (static_cast<std::int64_t>(row_tile) * kTileRows + lane / 4) * k + lane % 4 * 8;
  }
  __device__ __forceinline__ Loaded load(Place place, int row, int col) const {
    const auto* upper = reinterpret_cast<const uint4*>(place + static_cast<unsigned>(row * kTileRows * k + col * 32));
    const auto* lower = reinterpret_cast<const uint4*>(reinterpret_cast<const Value*>(upper) + 8U * k);
    Loaded loaded;
#pragma unroll
    for (int i = 0; i < kWords; ++i) loaded.upper[i] = load_once(upper + i), loaded.lower[i] = load_once(lower + i);
    return loaded;
  }

  // Rows of a batch stand one behind the other in shared memory, as lines of memory are asked for whole. Where a row's
  // number is odd its pieces change places, so that lanes of neighbouring rows find theirs in different banks.
  static constexpr int kRowPieces = kBatch * kPiecesOn, kRowsAtOnce = 32 / kRowPieces;
  __device__ __forceinline__ static std::uint32_t place_of_piece(int row, int piece) {
    const int moved = piece ^ (row % 2 * (kWords == 1 ? 4 : 1));
    return static_cast<std::uint32_t>((row * kRowPieces + moved) * 16);
  }
  __device__ __forceinline__ const uint4* source(int row_tile, int lane) const {
    const std::int64_t row = static_cast<std::int64_t>(row_tile) * kTileRows + lane / kRowPieces;
    return reinterpret_cast<const uint4*>(values + row * k) + lane % kRowPieces;
  }
  __device__ __forceinline__ const uint4* pieces(const uint4* source, int row, int col) const {
    return source + static_cast<unsigned>(row * kTileRows * (k / 32) + col) * kPiecesOn;
  }
  __device__ __forceinline__ void copy(const uint4* pieces, int tiles, std::uint32_t stage, int lane) const {
    if (lane % kRowPieces >= tiles * kPiecesOn) return;
#pragma unroll
    for (int row = 0; row < kTileRows; row += kRowsAtOnce, pieces += kRowsAtOnce * (k / 32) * kPiecesOn) {
      copy_async<16>(stage + place_of_piece(row + lane / kRowPieces, lane % kRowPieces), pieces);
    }
  }
  __device__ __forceinline__ Loaded read(Place, int tile, std::uint32_t stage, std::uint32_t, int lane) const {
    Loaded loaded;
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      const int piece = tile * kPiecesOn + lane % 4 * kWords + i;
      loaded.upper[i] = load_shared(stage + place_of_piece(lane / 4, piece));
      loaded.lower[i] = load_shared(stage + place_of_piece(lane / 4 + 8, piece));
    }
    return loaded;
  }
  template <class T, int Step>
  __device__ __forceinline__ void factors(const Loaded& loaded, std::uint32_t, StepFactors<T>& f) const {
    const auto word = [](const uint4(&words)[kWords], int i) {
      const uint4& w = words[i / 4];
      return i % 4 == 0 ? w.x : i % 4 == 1 ? w.y : i % 4 == 2 ? w.z : w.w;
    };
    if constexpr (sizeof(T) == 2) {
      f[0] = word(loaded.upper, 2 * Step), f[1] = word(loaded.lower, 2 * Step);
      f[2] = word(loaded.upper, 2 * Step + 1), f[3] = word(loaded.lower, 2 * Step + 1);
    } else if constexpr (sizeof(Value) == 2) {
      f.v[0] = unpack2<Value>(word(loaded.upper, 2 * Step)), f.v[1] = unpack2<Value>(word(loaded.lower, 2 * Step));
      f.v[2] = unpack2<Value>(word(loaded.upper, 2 * Step + 1));
      f.v[3] = unpack2<Value>(word(loaded.lower, 2 * Step + 1));
    } else {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int i = 4 * Step + 2 * half;
        f.v[2 * half] = {__uint_as_float(word(loaded.upper, i)), __uint_as_float(word(loaded.upper, i + 1))};
        f.v[2 * half + 1] = {__uint_as_float(word(loaded.lower, i)), __uint_as_float(word(loaded.lower, i + 1))};
      }
    }
  }
  __device__ __forceinline__ float2 scales(const Loaded&) const { return {1.0F, 1.0F}; }
  __device__ float row_scale(int) const { return 1.0F; }
  __device__ float at(int row, int col) const { return to_f32(values[static_cast<std::int64_t>(row) * k + col]); }
};

template <>
struct TileView<Int8Row> {
  static constexpr int kSteps = 2;
  static constexpr bool kHasTable = false;
  static constexpr int kPieces = 1;
  static constexpr int kPiecesOn = 32;
  static constexpr int kNoteBytes = 0;

  using Place = const uint4*;
  using Loaded = uint4;

  const std::int8_t* codes;
  const float* scb;
  int n, k;

  TileView() = default;
  explicit TileView(const Int8Row& w) : codes(w.codes.as<std::int8_t>()), scb(w.scb.as<float>()), n(w.n), k(w.k) {}

  __device__ __forceinline__ Place place(int row_tile, int lane) const {
    return reinterpret_cast<const uint4*>(codes) + static_cast<std::int64_t>(row_tile) * k + lane;
  }
  __device__ __forceinline__ const uint4* source(int row_tile, int lane) const { return place(row_tile, lane); }
  __device__ __forceinline__ const uint4* pieces(const uint4* source, int row, int col) const {
    return source + static_cast<unsigned>(row * k + col * kPiecesOn);
  }
  __device__ __forceinline__ Loaded load(Place place, int row, int col) const {
    return load_once(pieces(place, row, col));
  }
  __device__ __forceinline__ void copy(const uint4* pieces, int tiles, std::uint32_t stage, int lane) const {
    copy_tiles(pieces, tiles, stage, lane);
  }
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
  __device__ float row_scale(int row) const { return scb[row] * Int8Row::View::kInverse127; }
  __device__ float at(int row, int col) const {
    const std::int64_t place = 2 * place_in_tiles(row, col & ~1, k, kSteps) + (col & 1);
    return static_cast<float>(codes[place]) * scb[row] * Int8Row::View::kInverse127;
  }
};

template <>
struct TileView<Int8Decomp> : TileView<Int8Row> {
  using TileView<Int8Row>::TileView;
};

/// The aligned word that a pair of bytes stands in, which is the least that can be copied, and the pair in it. Pairs of
/// one lane stand a multiple of a word apart.
__device__ __forceinline__ const void* word_of(const uchar2* pair) {
  return reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(pair) & ~std::uintptr_t{3});
}
__device__ __forceinline__ uchar2 pair_of_word(const uchar2* pair, std::uint32_t word) {
  word >>= (reinterpret_cast<std::uintptr_t>(pair) & 2) * 8;
  return {static_cast<unsigned char>(word), static_cast<unsigned char>(word >> 8)};
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
  __device__ __forceinline__ void copy(Place place, int row, int blocks, int block, std::uint32_t notes) const {
    copy_async<8>(notes, place + static_cast<unsigned>((row * blocks + block) * 8));
  }
  __device__ __forceinline__ Loaded read(Place, std::uint32_t notes) const {
    const uint2 v = load_shared_pair(notes);
    return {__uint_as_float(v.x), __uint_as_float(v.y)};
  }
  __device__ __forceinline__ float2 scales(const Loaded& loaded) const { return loaded; }
  __device__ float at(std::int64_t place, std::int64_t) const { return absmax[place]; }
};

template <>
struct ScaleView<NestedScale> {
  static constexpr int kNoteBytes = 16;  // two codes among four bytes, two nested absmax
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
  __device__ __forceinline__ void copy(const Place& place, int row, int blocks, int block, std::uint32_t notes) const {
    const auto further = static_cast<unsigned>(row * blocks);
    const unsigned upper = place.first + further * kTileRows + static_cast<unsigned>(block);
    copy_async<4>(notes, word_of(place.codes + (further + static_cast<unsigned>(block)) * 8));
    copy_async<4>(notes + 4, nested(upper));
    copy_async<4>(notes + 8, nested(upper + 8U * static_cast<unsigned>(blocks)));
  }
  __device__ __forceinline__ Loaded read(const Place& place, std::uint32_t notes) const {
    const uint4 v = load_shared(notes);
    return {pair_of_word(place.codes, v.x), {__uint_as_float(v.y), __uint_as_float(v.z)}};
  }
  __device__ __forceinline__ float2 scales(const Loaded& l) const {
    return {__ldg(table + l.codes.x) * l.nested.x + offset, __ldg(table + l.codes.y) * l.nested.y + offset};
  }
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
  struct Loaded {
    uint4 codes;
    typename ScaleView<Scale>::Loaded scale;
  };

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
  __device__ __forceinline__ const uint4* source(int row_tile, int lane) const { return place(row_tile, lane).codes; }
  __device__ __forceinline__ const uint4* pieces(const uint4* source, int row, int col) const {
    return source + static_cast<unsigned>(row * (k / 2) + col * kPiecesOn);
  }
  __device__ __forceinline__ Loaded load(const Place& place, int row, int col) const {
    return {load_once(pieces(place.codes, row, col)), scale.load(place.scale, row, blocks, col >> block_tiles_shift)};
  }
  __device__ __forceinline__ void copy(const uint4* pieces, int tiles, std::uint32_t stage, int lane) const {
    copy_tiles(pieces, tiles, stage, lane);
  }
  __device__ __forceinline__ void copy_notes(const Place& place, int row, int col, std::uint32_t notes) const {
    scale.copy(place.scale, row, blocks, col >> block_tiles_shift, notes);
  }
  __device__ __forceinline__ Loaded read(const Place& place, int tile, std::uint32_t stage, std::uint32_t notes,
                                         int lane) const {
    return {read_tile(tile, stage, lane), scale.read(place.scale, notes)};
  }
  __device__ __forceinline__ float2 scales(const Loaded& loaded) const { return scale.scales(loaded.scale); }
  template <class T, int Step>
  __device__ __forceinline__ void factors(const Loaded& loaded, std::uint32_t column, StepFactors<T>& f) const {
    const std::uint32_t word = Step == 0   ? loaded.codes.x
                               : Step == 1 ? loaded.codes.y
                               : Step == 2 ? loaded.codes.z
                                           : loaded.codes.w;
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
  __device__ __forceinline__ const uint4* source(int row_tile, int lane) const { return place(row_tile, lane).codes; }
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
  __device__ __forceinline__ void copy(const uint4* pieces, int tiles, std::uint32_t stage, int lane) const {
    copy_tiles(pieces, tiles, stage, lane);
  }
  __device__ __forceinline__ void copy_notes(const Place& place, int row, int col, std::uint32_t notes) const {
    const unsigned pair = pair_of(row, col);
    copy_async<4>(notes, place.scales + pair);
    zeros.copy(place.zeros, pair, notes + 4);
  }
  __device__ __forceinline__ Loaded read(const Place& place, int tile, std::uint32_t stage, std::uint32_t notes,
                                         int lane) const {
    const uint2 v = load_shared_pair(notes);
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
      const std::uint32_t word = Step == 0   ? loaded.codes.x
                                 : Step == 1 ? loaded.codes.y
                                 : Step == 2 ? loaded.codes.z
                                             : loaded.codes.w;
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
