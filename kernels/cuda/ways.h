// Which way a linear goes, and the measurements it was decided by.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <limits>

namespace nibble {

/// How long a row's segment is. With the weight's layout and shape it decides how the row is computed.
enum class Length { kFew, kBrief, kShort, kSome, kMore, kMany };
inline constexpr int kMostFewRows = 16;
inline constexpr int kMostBriefRows = 64;
inline constexpr int kMostShortRows = 128;
inline constexpr int kMostSomeRows = 512;
inline constexpr int kMostMoreRows = 1024;

inline Length length_of(int rows) {
  return rows <= kMostFewRows     ? Length::kFew
         : rows <= kMostBriefRows ? Length::kBrief
         : rows <= kMostShortRows ? Length::kShort
         : rows <= kMostSomeRows  ? Length::kSome
         : rows <= kMostMoreRows  ? Length::kMore
                                  : Length::kMany;
}

// The fused way: a tile has 256 rows of w and 64 or 128 of x, and blocks divide the columns, 256 or more each.
inline constexpr int kFusedTileRows = 256, kFusedColumns = 256;
inline constexpr int kNarrow = 64, kWide = 128;
inline constexpr int kNarrowTileBytes = kFusedTileRows * kNarrow * 4;  ///< of sums

/// Into how many parts the columns are divided, a block each. Blocks of a cluster, one to eight, send each other their
/// sums; of several clusters, which are pairs then, they come together in memory.
struct Split {
  int parts = 1, cluster = 1;

  constexpr int clusters() const { return parts / cluster; }
};
inline constexpr int kMostCluster = 8, kMostClusters = 8;
/// Pairs that there are at most of a launch where several divide a tile's columns, in tiles of up to kNarrow rows of x:
/// their sums have room in memory.
inline constexpr int kMostPairs = 64;

/// Calls f with all splits into up to `most` parts.
template <class F>
void each_split(int most, F&& f) {
  for (int parts = 1; parts <= std::min(most, kMostCluster); ++parts) f(Split{parts, parts});
  for (int parts = 4; parts <= std::min(most, 2 * kMostClusters); parts += 2) f(Split{parts, 2});
}

/// Whether tiles of so many rows of x can be divided so: a block has room for its share of all blocks' sums, by eights.
constexpr bool fused_takes(int columns, const Split& split) {
  return columns <= kNarrow || (split.clusters() == 1 && split.cluster <= 4 && columns / 8 % split.cluster == 0);
}

/// What a step of 64 columns takes, and what is around a tile's, us, by itself and where a cluster divides the columns;
/// and for each of several clusters.
struct TileTimes {
  float step, around, around_divided, cluster;
};

/// About what a launch takes that has `tiles` tiles of k columns, us: how often clusters take turns, in each turn the
/// steps and what is around them; and once what the launch's blocks are in each other's way. Never where sums of
/// several clusters have no room.
inline float fused_us(int tiles, int k, const Split& split, const TileTimes& times) {
  constexpr int kBlocks = 132;
  constexpr int kClusters[kMostCluster + 1] = {0, kBlocks, 66, 39, 30, 22, 17, 15, 15};  // of each size, at once
  constexpr float kCrowded = 4;                                                          // all blocks there can be
  const int clusters = split.clusters();
  if (clusters > 1 && tiles * clusters > kMostPairs) return std::numeric_limits<float>::infinity();
  const int at_once = kClusters[split.cluster] / clusters, turns = (tiles + at_once - 1) / at_once;
  const float steps = static_cast<float>(k / 64) / static_cast<float>(split.parts);
  const float sums = (split.cluster == 1 ? times.around : times.around_divided) +
                     (clusters == 1 ? 0 : static_cast<float>(clusters) * times.cluster);
  const float share = static_cast<float>(std::min(tiles, at_once) * split.parts) / kBlocks;
  return static_cast<float>(turns) * (steps * times.step + sums) + share * share * kCrowded;
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
inline FusedTiling fused_tiling(int linears, int n, int k, int rows, const Split& split) {
  // Parts' times on one H200, nf4, fp16, 2026-11-29.
  constexpr TileTimes kNarrowTimes{0.487F, 3.7F, 5.9F, 0.6F}, kWideTimes{0.75F, 10, 12, 0};
  const auto us = [&](int columns) {
    return fused_us(tiles_of(linears, n, rows, kFusedTileRows, columns), k, split,
                    columns == kNarrow ? kNarrowTimes : kWideTimes);
  };
  const bool wide = fused_takes(kWide, split) && us(kWide) < us(kNarrow);
  return {wide ? kWide : kNarrow, us(wide ? kWide : kNarrow)};
}

/// About what it takes besides: another launch, which arranges x.
inline float arrange_us(int rows, int k) { return 2.4F + 1.6e-6F * static_cast<float>(rows) * static_cast<float>(k); }

/// About what the way of many rows takes, us: each linear's weights are written and multiplied. Parts' times as above.
inline float expand_us(int linears, int n, int k, int rows) {
  const float millions = 1e-6F * static_cast<float>(n) * static_cast<float>(k);
  const float product = std::max(millions * static_cast<float>(rows) / 439, millions / 3.4F);
  return static_cast<float>(linears) * (9.8F + 0.99F * millions + product);
}

// What both are measured at. One H200, nf4, fp16, us a call (`nibble bench --kernels`; LayerNorm is in those of the
// first and second of four): expanded / fused, of what was tried the fastest, 2026-11-29. From 128 rows on cuBLASLt had
// the algorithm for the next longer segments. The times of parts above and below are those that fit these best: 4 % off
// on average, and 7 % where weights are expanded.
//
//        n x k              64 rows         128         256         512        1024
//   3 x  1024 x 1024        37 / 11     37 / 12     38 / 14     37 / 17     43 / 29
//        4096 x 1024        15 / 11     15 / 13     18 / 15     20 / 18     29 / 30
//        1024 x 1024        11 / 10     11 / 10     11 / 10     11 / 13     11 / 15
//        1024 x 4096        17 / 13     16 / 14     18 / 17     18 / 29     24 / 32
//   3 x  2048 x 2048        44 / 15     47 / 18     51 / 24     57 / 38     81 / 66
//        8192 x 2048        30 / 17     28 / 18     44 / 24     46 / 40     71 / 75
//        2048 x 2048        14 / 11     14 / 13     16 / 17     16 / 23     21 / 30
//        2048 x 8192        36 / 18     32 / 25     41 / 43     44 / 48     60 / 78
//   3 x  4096 x 4096        92 / 26     91 / 40    126 / 62   140 / 110   222 / 197
//       16384 x 4096       100 / 27     96 / 40    104 / 63   154 / 120   257 / 254
//        4096 x 4096        30 / 17     29 / 24     39 / 31     41 / 46     63 / 77
//        4096 x 16384       95 / 35     95 / 50    132 / 80   141 / 127   223 / 241

/// Rows that what is chosen for a length is chosen for: the most that are likely, and fewer.
constexpr int typical_rows(Length length) {
  return length <= Length::kBrief   ? kMostBriefRows
         : length == Length::kShort ? kMostShortRows
         : length == Length::kSome  ? kMostSomeRows
         : length == Length::kMore  ? kMostMoreRows
                                    : 2 * kMostMoreRows;
}
constexpr int fewer_rows(Length length) { return typical_rows(length) * (length == Length::kShort ? 3 : 2) / 4; }

/// How the fused way divides the columns of so many linears' weights for rows of segments of this length; in no parts
/// where the other way is faster. What is best for likely numbers of rows.
inline Split fused_split(int linears, int n, int k, Length length) {
  Split best{.parts = 0};
  if (k % kFusedColumns != 0) return best;
  const auto sum = [&](auto&& us) { return us(fewer_rows(length)) + us(typical_rows(length)); };
  float least = sum([&](int rows) { return expand_us(linears, n, k, rows); });
  each_split(k / kFusedColumns, [&](const Split& split) {
    const float found =
        sum([&](int rows) { return fused_tiling(linears, n, k, rows, split).us + arrange_us(rows, k); });
    if (found < least) best = split, least = found;
  });
  return best;
}

// Rows of short segments, more than sixteen, together: a tile has 256 rows of w and 32 of x, or 128 and 64. Times as
// above, fitted to kernels that could all gather sums of pairs, 4 % off on average; today's take up to 5 us less. What
// those are measured at, 2026-11-30, and how they go (LayerNorm is in those of the first and second of four):
//
//        n x k            32 rows: us, tile, parts      64 rows
//   3 x  4096 x 4096       22, 256 x 32, 2              36, 128 x 64, 2
//       16384 x 4096       24, 256 x 32, 2              36, 128 x 64, 2
//        4096 x 4096       13, 256 x 32, 8              15, 128 x 64, 4
//        4096 x 16384      25, 256 x 32, 8              33, 128 x 64, 4

/// log2 of how many sharers' columns a block takes at most.
inline constexpr int kMostSharersShift = 2;
struct CrowdTile {
  int rows, columns;
  TileTimes times;
};
inline constexpr CrowdTile kCrowdTiles[] = {{256, 32, {0.46F, 2.1F, 4.2F, 0.2F}},
                                            {128, 64, {0.395F, 1.7F, 3.4F, 0.4F}}};

/// Which tile, and how the columns, which are those of `sharers`, are divided. Neither changes a bit.
struct CrowdTiling {
  int tile;
  Split split;
};
inline CrowdTiling crowd_tiling(int linears, int n, int k, int rows, int sharers) {
  CrowdTiling best{};
  float least = std::numeric_limits<float>::infinity();
  for (const int tile : {0, 1}) {
    const CrowdTile& size = kCrowdTiles[tile];
    const int tiles = tiles_of(linears, n, rows, size.rows, size.columns);
    each_split(std::min(sharers, k / kFusedColumns), [&](const Split& split) {
      if (sharers % split.parts != 0 || sharers / split.parts > 1 << kMostSharersShift) return;
      const float found = fused_us(tiles, k, split, size.times);
      if (found < least) best = {tile, split}, least = found;
    });
  }
  return best;
}

}  // namespace nibble
