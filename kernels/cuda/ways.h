// Which way a linear goes, and the measurements it was decided by.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>

namespace nibble {

/// How long a row's segment is. With the weight's layout and shape it decides how the row is computed.
enum class Length { kFew, kShort, kSome, kMore, kMany };
inline constexpr int kMostFewRows = 16;
inline constexpr int kMostShortRows = 128;
inline constexpr int kMostSomeRows = 512;
inline constexpr int kMostMoreRows = 1024;

inline Length length_of(int rows) {
  return rows <= kMostFewRows     ? Length::kFew
         : rows <= kMostShortRows ? Length::kShort
         : rows <= kMostSomeRows  ? Length::kSome
         : rows <= kMostMoreRows  ? Length::kMore
                                  : Length::kMany;
}

// The fused way: a tile has 256 rows of w and 64 or 128 of x, and the blocks of a cluster divide the columns, 256 or
// more each.
inline constexpr int kFusedTileRows = 256, kFusedColumns = 256, kMostSplit = 8;
inline constexpr int kNarrow = 64, kWide = 128;

/// Whether tiles of so many rows of x can be divided so: a block has room for its share of all blocks' sums, by eights.
constexpr bool fused_takes(int columns, int split) { return columns < kWide || kWide / 8 % split == 0; }

/// What a step of 64 columns takes, and what is around a tile's, us, by itself and where a cluster divides the columns.
struct TileTimes {
  float step, around, around_divided;
};

/// About what a launch takes that has `tiles` tiles of k columns, us: how often clusters take turns, and in each turn
/// the steps and what is around them.
inline float fused_us(int tiles, int k, int split, const TileTimes& times) {
  constexpr int kClusters[kMostSplit + 1] = {0, 132, 66, 39, 30, 22, 17, 15, 15};  // of each size, at once
  const int turns = (tiles + kClusters[split] - 1) / kClusters[split];
  const float steps = static_cast<float>(k / 64) / static_cast<float>(split);
  return static_cast<float>(turns) * (steps * times.step + (split == 1 ? times.around : times.around_divided));
}

/// Tiles of y, `tile_rows` rows of w and `tile_columns` of x.
constexpr int tiles_of(int linears, int n, int rows, int tile_rows, int tile_columns) {
  return linears * ((n + tile_rows - 1) / tile_rows) * ((rows + tile_columns - 1) / tile_columns);
}

/// The best tile for `rows` rows of x and so many linears with weights [n, k].
struct FusedTiling {
  int columns;
  float us;
};
inline FusedTiling fused_tiling(int linears, int n, int k, int rows, int split) {
  // Parts' times on one H200, nf4, fp16, 2026-11-29.
  constexpr TileTimes kNarrowTimes{0.58F, 2, 5}, kWideTimes{0.82F, 4, 9};
  const auto us = [&](int columns) {
    return fused_us(tiles_of(linears, n, rows, kFusedTileRows, columns), k, split,
                    columns == kNarrow ? kNarrowTimes : kWideTimes);
  };
  const bool wide = fused_takes(kWide, split) && us(kWide) < us(kNarrow);
  return {wide ? kWide : kNarrow, us(wide ? kWide : kNarrow)};
}

/// About what it takes besides: another launch, which arranges x.
inline float arrange_us(int rows, int k) { return 4.0F + 1.2e-6F * static_cast<float>(rows) * static_cast<float>(k); }

/// About what the way of many rows takes, us: each linear's weights are written and multiplied. Parts' times as above.
inline float expand_us(int linears, int n, int k, int rows) {
  const float millions = 1e-6F * static_cast<float>(n) * static_cast<float>(k);
  const float product = std::max(millions * static_cast<float>(rows) / 370, millions / 1.5F);
  return static_cast<float>(linears) * (8.5F + 0.72F * millions + product);
}

// What both are measured at. One H200, nf4, fp16, us a call (`nibble bench --kernels`; LayerNorm is in those of the
// first and second of four): expanded / fused, 2026-11-29, with kernels that expand in more time than today's: 0.08 us
// for a million weights, and for 64 to 512 rows 0.3 us more and some 6 more for each linear. What is not chosen was
// measured with versions of that day.
//
//        n x k            64 rows      128          512         1900
//   3 x  1024 x 1024      38 / 12      38 / 13      41 / 21      58 / 49
//        4096 x 1024      18 / 14      18 / 15      22 / 23      44 / 50
//        1024 x 1024      11 / 12      11 / 12      11 / 15      15 / 25
//        1024 x 4096      44 / 14      44 / 16      21 / 28      33 / 49
//   3 x  2048 x 2048      53 / 16      53 / 21      65 / 36     129 / 105
//        8192 x 2048      40 / 19      38 / 21      56 / 37     122 / 136
//        2048 x 2048      17 / 14      17 / 15      19 / 26      33 / 45
//        2048 x 8192      40 / 25      40 / 30      52 / 53     105 / 130
//   3 x  4096 x 4096     120 / 30     123 / 39     167 / 112    393 / 376
//       16384 x 4096     154 / 33     147 / 41     199 / 121    446 / 472
//        4096 x 4096      39 / 26      39 / 27      50 / 47     110 / 134
//        4096 x 16384    516 / 42     526 / 74     329 / 128    407 / 471

/// Rows that what is chosen for a length is chosen for: the most that are likely.
constexpr int typical_rows(Length length) {
  return length <= Length::kShort  ? kMostShortRows
         : length == Length::kSome ? kMostSomeRows
         : length == Length::kMore ? kMostMoreRows
                                   : 2 * kMostMoreRows;
}

/// Into how many parts the fused way divides the columns of a weight for rows of segments of this length; 0 where
/// the other way is faster. What is best for likely numbers of rows; square weights are q, k and v, which are
/// multiplied together, and the one behind attention.
inline int fused_split(int n, int k, Length length) {
  if (k % kFusedColumns != 0) return 0;
  const auto sum = [&](auto&& us) {
    float sum = 0;
    for (const int linears : {1, 3}) {
      if (linears == 3 && n != k) break;
      for (const int rows : {typical_rows(length) / 2, typical_rows(length)}) sum += us(linears, rows);
    }
    return sum;
  };
  int best = 0;
  float least = sum([&](int linears, int rows) { return expand_us(linears, n, k, rows); });
  for (int split = 1; split <= std::min(kMostSplit, k / kFusedColumns); ++split) {
    const float found =
        sum([&](int linears, int rows) { return fused_tiling(linears, n, k, rows, split).us + arrange_us(rows, k); });
    if (found < least) best = split, least = found;
  }
  return best;
}

// Rows of short segments, more than sixteen, together: a tile has 256 rows of w and 32 of x, or 128 and 64. Times as
// above; with `arrange_us`, 2026-11-29, us measured / so reckoned (LayerNorm is in those of the first and third of
// four):
//
//        n x k        32 rows, 256 x 32    128 x 64    64 rows, 128 x 64
//   3 x  4096 x 4096       22 / 23                          37 / 33
//        4096 x 4096       13 / 16                          19 / 19
//       16384 x 4096       24 / 23                          38 / 33
//        4096 x 16384      33 / 36                          56 / 48
//   3 x  1024 x 1024        8 / 11            8 / 8
//        1024 x 4096       10 / 13            9 / 10

/// log2 of how many sharers' columns a block takes at most.
inline constexpr int kMostSharersShift = 2;
struct CrowdTile {
  int rows, columns;
  TileTimes times;
};
inline constexpr CrowdTile kCrowdTiles[] = {{256, 32, {0.42F, 2, 5}}, {128, 64, {0.37F, 2, 2.5F}}};

/// Which tile, and into how many parts the columns, which are those of `sharers`, are divided. Neither changes a bit.
struct CrowdTiling {
  int tile, split;
};
inline CrowdTiling crowd_tiling(int linears, int n, int k, int rows, int sharers) {
  CrowdTiling best{};
  float least = 0;
  for (const int tile : {0, 1}) {
    const auto& [tile_rows, tile_columns, times] = kCrowdTiles[tile];
    const int tiles = tiles_of(linears, n, rows, tile_rows, tile_columns);
    for (int split = std::max(1, sharers >> kMostSharersShift); split <= std::min(sharers, k / kFusedColumns);
         split *= 2) {
      const float found = fused_us(tiles, k, split, times);
      if (best.split == 0 || found < least) best = {tile, split}, least = found;
    }
  }
  return best;
}

}  // namespace nibble
