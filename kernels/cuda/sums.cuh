// What a warp has on its way from a tile to sums: rows of x as its lanes read them, factors, products.
#pragma once

#include "kernels/cuda/weight_stream.cuh"

namespace nibble {
namespace {

/// Rows of x as a lane reads them: its run of columns of the first tile, in shared memory or in global memory. For
/// tensor cores a lane has one row of every eight, or none, and then anything: it is a column of sums that nobody
/// reads. In fp32 it has all.
template <class T, int kRows, bool kStaged>
struct RowsOfX {
  static constexpr int kEights = sizeof(T) == 2 ? (kRows + 7) / 8 : 1;
  std::conditional_t<kStaged, std::uint32_t, const char*> places[kEights];
  int rows, pitch;

  __device__ __forceinline__ RowsOfX(const char* x, int offset, int lane, int rows_of_x, int pitch_of_x)
      : rows(rows_of_x), pitch(pitch_of_x) {
#pragma unroll
    for (int i = 0; i < kEights; ++i) {
      const int row = sizeof(T) == 2 ? min(i * 8 + lane / 4, rows - 1) : 0;
      if constexpr (kStaged) {
        places[i] = kept(shared_address(x) + static_cast<std::uint32_t>(offset + row * pitch));
      } else {
        places[i] = x + offset + row * pitch;
      }
    }
  }

  /// 16 bytes from `offset` on, of the lane's row of an eight.
  __device__ __forceinline__ uint4 load(int eight, int offset) const {
    if constexpr (kStaged) {
      return load_shared(places[eight] + static_cast<std::uint32_t>(offset));
    } else {
      return *reinterpret_cast<const uint4*>(places[eight] + offset);
    }
  }
};

/// A tile's factors, step by step.
template <class T, int Step = 0, class View>
__device__ __forceinline__ void decode(const View& view, const typename View::Read& tile, std::uint32_t column,
                                       StepFactors<T> (&factors)[View::kSteps]) {
  view.template factors<T, Step>(tile, column, factors[Step]);
  if constexpr (Step + 1 < View::kSteps) decode<T, Step + 1>(view, tile, column, factors);
}

/// A warp's sums at the end: lane 4 g + t has rows of x 2t and 2t + 1 of each eight for rows g and g + 8 of weights.
template <int kRows>
struct SpreadSums {
  float d[(kRows + 7) / 8][4];

  /// Adds them to what columns before have.
  __device__ __forceinline__ void add_to(const SpreadSums& before) {
#pragma unroll
    for (int c = 0; c < (kRows + 7) / 8; ++c) {
#pragma unroll
      for (int i = 0; i < 4; ++i) d[c][i] = before.d[c][i] + d[c][i];
    }
  }
};

/// Sums of 16 rows of weights and up to kRows rows of x, a warp's share. On the tensor cores there are two of each, of
/// the first and of the second half of batches, which come together at the end: so OneRow can have them in two lanes.
template <class T, int kRows, int kSteps>
struct Sums {
  static constexpr int kEights = (kRows + 7) / 8;
  float d[2][kEights][4] = {};

  __device__ __forceinline__ void clear() { *this = {}; }

  /// Of a tile.
  struct Products {
    float d[kEights][4] = {};

    /// Adds those with x from `offset` on.
    template <class X>
    __device__ __forceinline__ void multiply(const StepFactors<T> (&a)[kSteps], const X& x, int offset) {
#pragma unroll
      for (int c = 0; c < kEights; ++c) {
#pragma unroll
        for (int i = 0; i < kSteps / 2; ++i) {
          const uint4 b = x.load(c, offset + 16 * i);
          mma<T>(d[c], a[2 * i], b.x, b.y);
          mma<T>(d[c], a[2 * i + 1], b.z, b.w);
        }
      }
    }
  };

  /// The products of tile `i` of a batch.
  __device__ __forceinline__ void add(int i, const Products& products, float2 scale) {
#pragma unroll
    for (int c = 0; c < kEights; ++c) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        float& sum = d[i / (kBatch / 2)][c][r];
        sum = fmaf(products.d[c][r], r < 2 ? scale.x : scale.y, sum);
      }
    }
  }

  /// The warp's sums.
  using Spread = SpreadSums<kRows>;
  __device__ __forceinline__ Spread spread(int) const {
    Spread spread;
#pragma unroll
    for (int c = 0; c < kEights; ++c) {
#pragma unroll
      for (int i = 0; i < 4; ++i) spread.d[c][i] = d[0][c][i] + d[1][c][i];
    }
    return spread;
  }
};

/// The same in fp32, on the ordinary units: no rounding of factors.
template <int kRows, int kSteps>
struct Sums<float, kRows, kSteps> {
  float d[kRows][2] = {};

  __device__ __forceinline__ void clear() { *this = {}; }

  struct Products {
    float d[kRows][2] = {};

    template <class X>
    __device__ __forceinline__ void multiply(const Factors32 (&w)[kSteps], const X& x, int offset) {
#pragma unroll
      for (int c = 0; c < kRows; ++c) {
        if (c >= x.rows) break;
#pragma unroll
        for (int i = 0; i < kSteps; ++i) {
          const uint4 word = x.load(0, c * x.pitch + offset + 16 * i);
          const float4 v{__uint_as_float(word.x), __uint_as_float(word.y), __uint_as_float(word.z),
                         __uint_as_float(word.w)};
          float& upper = d[c][0];
          float& lower = d[c][1];
          upper = fmaf(w[i].v[0].x, v.x, fmaf(w[i].v[0].y, v.y, fmaf(w[i].v[2].x, v.z, fmaf(w[i].v[2].y, v.w, upper))));
          lower = fmaf(w[i].v[1].x, v.x, fmaf(w[i].v[1].y, v.y, fmaf(w[i].v[3].x, v.z, fmaf(w[i].v[3].y, v.w, lower))));
        }
      }
    }
  };

  __device__ __forceinline__ void add(int, const Products& products, float2 scale) {
#pragma unroll
    for (int c = 0; c < kRows; ++c) {
      d[c][0] = fmaf(products.d[c][0], scale.x, d[c][0]), d[c][1] = fmaf(products.d[c][1], scale.y, d[c][1]);
    }
  }

  using Spread = SpreadSums<kRows>;
  __device__ __forceinline__ Spread spread(int lane) const {
    Spread spread;
#pragma unroll
    for (int c = 0; c < kRows; ++c) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float v = d[c][half];
        v += __shfl_xor_sync(0xffffffffU, v, 1);
        v += __shfl_xor_sync(0xffffffffU, v, 2);
        if (lane % 4 == c % 8 / 2) spread.d[c / 8][2 * half + c % 2] = v;
      }
    }
    return spread;
  }
};

/// Sums of neighbouring sharers that a warp takes one after another, of kDown rows of tiles: they come together by
/// twos, by fours and so on, as those of different warps do.
template <class Spread, int kDown, int kLevels>
struct Gathered {
  Spread held[kLevels][kDown];

  /// Makes of the sums of sharer number `i` those of the largest group that it is the last of.
  __device__ __forceinline__ void add(int i, Spread (&sums)[kDown]) {
#pragma unroll
    for (int level = 0; level < kLevels; ++level) {
      const bool is_last = (i >> level & 1) != 0;
#pragma unroll
      for (int row = 0; row < kDown; ++row) {
        if (is_last) sums[row].add_to(held[level][row]);
        if (!is_last) held[level][row] = sums[row];
      }
      if (!is_last) break;
    }
  }
};

/// Rows of x at a tile's columns, kept for the tiles of several rows.
template <int kEights, int kPieces>
struct HeldRows {
  uint4 pieces[kEights][kPieces];

  template <class X>
  __device__ __forceinline__ HeldRows(const X& x, int offset) {
#pragma unroll
    for (int i = 0; i < kEights; ++i) {
#pragma unroll
      for (int j = 0; j < kPieces; ++j) pieces[i][j] = x.load(i, offset + 16 * j);
    }
  }
  __device__ __forceinline__ uint4 load(int eight, int offset) const { return pieces[eight][offset / 16]; }
};

/// Adds the products of a warp's share of kDown rows of tiles, `count` tiles each, from number `col` on, a multiple of
/// kBatch. `step`: bytes of x from tile to tile; `wait_for_x` comes back when those of a tile, and of as many behind it
/// as a batch has in a row, are there. What is read of x serves all rows. Where registers are short, tiles come from
/// shared memory column by column instead of all at once.
template <class T, int kRows, class View, int kStages, int kDown, class X, class Wait>
__device__ __forceinline__ void add_products(Sums<T, kRows, View::kSteps> (&sums)[kDown], const View& view,
                                             WeightStream<View, kStages, kDown>& stream, const X& x, int col, int count,
                                             int step, std::uint32_t column, Wait&& wait_for_x) {
  constexpr int kAcross = kBatch / kDown;
  constexpr bool kIsShort = kDown > 1 || (kRows > 8 && (View::kNoteBytes > 0 || View::kPieces > 1));
  for (; col < count; col += kBatch) {
#pragma unroll
    for (int begin = 0; begin < kBatch; begin += kAcross) {
      const int left = count - col - begin;
      if (left <= 0) break;
      typename View::Read tiles[kBatch];
      const auto read_column = [&](int i) {
#pragma unroll
        for (int row = 0; row < kDown; ++row) tiles[row * kAcross + i] = stream.read(row * kAcross + i);
      };
      const auto ask = [&] {
        __syncwarp();
        stream.ask();
      };
      const auto add_column = [&](int i, const auto& rows_of_x, int offset) {
#pragma unroll
        for (int row = 0; row < kDown; ++row) {
          const auto& tile = tiles[row * kAcross + i];
          StepFactors<T> factors[View::kSteps];
          decode<T>(view, tile, column, factors);
          typename Sums<T, kRows, View::kSteps>::Products products;
          products.multiply(factors, rows_of_x, offset);
          sums[row].add(begin + i, products, view.scales(tile));
        }
      };
      const auto take_column = [&](int i, bool is_last) {
        const int offset = (col + begin + i) * step;
        if constexpr (kIsShort) read_column(i);
        if constexpr (kIsShort || kDown > 1) {
          const HeldRows<(kRows + 7) / 8, View::kSteps / 2> held(x, offset);
          if (kIsShort && is_last) ask();
          add_column(i, held, 0);
        } else {
          add_column(i, x, offset);
        }
      };
      wait_for_x(col + begin);
      stream.wait();
      if constexpr (!kIsShort) {
#pragma unroll
        for (int i = 0; i < kAcross; ++i) read_column(i);
        ask();
      }
      if (left >= kAcross) {
#pragma unroll
        for (int i = 0; i < kAcross; ++i) take_column(i, i == kAcross - 1);
        continue;
      }
#pragma unroll
      for (int i = 0; i < kAcross - 1; ++i) {
        if (i < left) take_column(i, false);
      }
      if constexpr (kIsShort) ask();
    }
  }
}

}  // namespace
}  // namespace nibble
