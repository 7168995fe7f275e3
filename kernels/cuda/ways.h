// Which way a linear goes, and the measurements it was decided by.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <limits>

namespace nibble {

/// How long a row's segment is. With the weight's layout and shape it decides how the row is computed.
enum class Length { kFew, kBrief, kShort, kSome, kMore, kLong, kLonger, kMany };
inline constexpr int kMostFewRows = 16;
/// The most rows of each length; of the last the most that are likely.
inline constexpr int kMostRows[] = {kMostFewRows, 64, 128, 256, 512, 1024, 1536, 2048};

inline Length length_of(int rows) {
  return static_cast<Length>(std::lower_bound(kMostRows, std::end(kMostRows) - 1, rows) - kMostRows);
}

/// Rows that what is chosen for a length is chosen for: the most, and fewer.
constexpr int typical_rows(Length length) { return kMostRows[static_cast<int>(length)]; }
constexpr int fewer_rows(Length length) {
  return length == Length::kFew ? 1 : (kMostRows[static_cast<int>(length) - 1] + typical_rows(length)) / 2;
}

/// Columns that a block has at least, where blocks divide them.
inline constexpr int kFusedColumns = 256;

/// Into how many parts the columns are divided, a block each. Blocks of a cluster, one to eight, send each other their
/// sums; of several clusters, which are pairs then, they come together in memory.
struct Split {
  int parts = 1, cluster = 1;

  constexpr int clusters() const { return parts / cluster; }
};
inline constexpr int kMostCluster = 8, kMostClusters = 8;

/// Calls f with all splits into up to `most` parts.
template <class F>
void each_split(int most, F&& f) {
  for (int parts = 1; parts <= std::min(most, kMostCluster); ++parts) f(Split{parts, parts});
  for (int parts = 4; parts <= std::min(most, 2 * kMostClusters); parts += 2) f(Split{parts, 2});
}

/// A block's tile of y. `steps` of x, 64 columns each, have room, and come `stage_steps` at a time. Times are what a
/// step takes, what is around a tile's, by itself and where a cluster divides the columns, and what there is for each
/// of several clusters, us.
struct TileShape {
  int rows, columns;  ///< of w, and rows of x
  int stage_steps, steps;
  float step, around, around_divided, cluster;

  constexpr int sums() const { return rows * columns; }
};

// Times of both ways' tiles on one H200, nf4, fp16, are those that fit 1,412 measurements best (15 shapes from 1024 x
// 1024 to 20480 x 5120, 32 to 2,048 rows, all divisions that are likely; 2.3 to 4.6 % off on average; what fused_us()
// chooses by them is 0.5 % slower than the fastest, on average, and 12 % at most): NOTES.md, tiles of 128 x 256.

/// Of the fused way.
inline constexpr TileShape kFusedTiles[] = {{256, 64, 2, 8, 0.449F, 1.97F, 4.71F, 0.53F},
                                            {128, 64, 2, 8, 0.280F, 1.27F, 2.92F, 0.38F},
                                            {128, 128, 1, 6, 0.377F, 1.83F, 4.21F, 0.82F},
                                            {128, 256, 1, 3, 0.601F, 5.22F, 8.97F, 0}};
/// Of rows of short segments, more than sixteen, together.
inline constexpr TileShape kCrowdTiles[] = {{256, 32, 4, 12, 0.357F, 0, 4.27F, 0.07F},
                                            {128, 32, 4, 12, 0.239F, 0, 2.29F, 0.21F},
                                            {128, 64, 4, 12, 0.315F, 0, 3.31F, 0.38F}};
inline constexpr int kMostTileColumns = 256;

/// Pairs that there are at most of a launch where several divide a tile's columns, and sums of such a tile, for which
/// there is room in memory.
inline constexpr int kMostPairs = 64, kMostPairSums = 256 * 64;

/// Whether a tile can be divided so: a block has room for its share of all blocks' sums, by eights.
constexpr bool takes(const TileShape& tile, const Split& split) {
  if (tile.columns == kMostTileColumns && (split.cluster > 4 || tile.columns / 8 % split.cluster != 0)) return false;
  return split.clusters() == 1 || tile.sums() <= kMostPairSums;
}

/// Tiles of y.
constexpr int tiles_of(int linears, int n, int rows, const TileShape& tile) {
  return linears * ((n + tile.rows - 1) / tile.rows) * ((rows + tile.columns - 1) / tile.columns);
}
/// Whether the last of the tiles that rows of x make is half a one: tiles of kMostTileColumns can be.
constexpr bool has_half_tile(int rows, int columns) {
  return columns == kMostTileColumns && (rows - 1) % columns < columns / 2;
}

/// How many turns as many clusters as are there at once take with whole tiles, and with halves behind them, which take
/// 0.63 of a whole one's time, as tiles of 128 x 128 do.
constexpr float turns_of(int whole, int halves, int at_once) {
  const int rest = whole % at_once, beside = rest > 0 ? at_once - rest : 0;
  return static_cast<float>((whole + at_once - 1) / at_once) +
         0.63F * static_cast<float>((std::max(0, halves - beside) + at_once - 1) / at_once);
}

/// About what a launch takes for `rows` rows of x and so many linears with weights [n, k], us: how often clusters take
/// turns, in each turn the steps and what is around them; and once the launch, and what its blocks are in each other's
/// way. Never where a tile cannot be divided so, or sums of several clusters have no room.
inline float fused_us(int linears, int n, int k, int rows, const Split& split, const TileShape& tile) {
  constexpr int kBlocks = 132;
  constexpr int kClusters[kMostCluster + 1] = {0, kBlocks, 66, 39, 30, 22, 17, 15, 15};  // of each size, at once
  constexpr float kLaunch = 1.6F, kCrowded = 0.9F;                                       // all blocks there can be
  const int tiles = tiles_of(linears, n, rows, tile), clusters = split.clusters();
  if (!takes(tile, split) || (clusters > 1 && tiles * clusters > kMostPairs)) {
    return std::numeric_limits<float>::infinity();
  }
  const int at_once = kClusters[split.cluster] / clusters;
  const int halves = has_half_tile(rows, tile.columns) ? tiles_of(linears, n, 1, tile) : 0;
  const float steps = static_cast<float>(k / 64) / static_cast<float>(split.parts);
  const float sums = (split.cluster == 1 ? tile.around : tile.around_divided) +
                     (clusters == 1 ? 0 : static_cast<float>(clusters) * tile.cluster);
  const float share = static_cast<float>(std::min(tiles, at_once) * split.parts) / kBlocks;
  return turns_of(tiles - halves, halves, at_once) * (steps * tile.step + sums) + kLaunch + share * share * kCrowded;
}

/// The best of the fused way's tiles, by its number, for `rows` rows of x and so many linears with weights [n, k].
struct FusedTiling {
  int tile = 0;
  float us = std::numeric_limits<float>::infinity();
};
inline FusedTiling fused_tiling(int linears, int n, int k, int rows, const Split& split) {
  FusedTiling best;
  for (int tile = 0; tile < static_cast<int>(std::size(kFusedTiles)); ++tile) {
    const float us = fused_us(linears, n, k, rows, split, kFusedTiles[tile]);
    if (us < best.us) best = {tile, us};
  }
  return best;
}
/// How many rows of x can go at once: as many as sums of several clusters have room for.
inline int most_fused_rows(int linears, int n, const Split& split) {
  if (split.clusters() == 1) return std::numeric_limits<int>::max();
  int most = 0;
  for (const TileShape& tile : kFusedTiles) {
    if (takes(tile, split)) {
      most = std::max(most, kMostPairs / (tiles_of(linears, n, 1, tile) * split.clusters()) * tile.columns);
    }
  }
  return most;
}

/// About what it takes besides: another launch, which arranges x.
inline float arrange_us(int rows, int k) { return 2.0F + 0.9e-6F * static_cast<float>(rows) * static_cast<float>(k); }

/// About what the way of many rows takes, us: each linear's weights are written and multiplied. Fitted to 64 to 1,024
/// rows of shapes of opt-350m, 1.3b and 6.7b (7 % off on average); but products of more, which are held back by power,
/// have 360 million weights and rows a us where those had 439.
inline float expand_us(int linears, int n, int k, int rows) {
  const float millions = 1e-6F * static_cast<float>(n) * static_cast<float>(k);
  const float product = std::max(millions * static_cast<float>(rows) / 360, millions / 3.4F);
  return static_cast<float>(linears) * (9.8F + 0.99F * millions + product);
}

// What both are measured at. One H200, nf4, fp16, us: expanded, with LayerNorm in the first and second of four
// (2026-11-29; from 128 rows on cuBLASLt had the algorithm for the next longer segments) / fused, x in lines not
// counted (2026-11-30), of what was tried the fastest.
//
//        n x k             64 rows         128         256         512        1024        2048
//   3 x  1024 x 1024        37 / 6      37 / 7      38 / 8     37 / 10     43 / 17          27
//        4096 x 1024        15 / 6      15 / 7      18 / 8     20 / 10     29 / 17          33
//        1024 x 1024        11 / 5      11 / 6      11 / 7      11 / 9     11 / 10          11
//        1024 x 4096        17 / 7      16 / 9     18 / 11     18 / 15     24 / 18          29
//   3 x  2048 x 2048        44 / 9     47 / 12     51 / 16     57 / 27     81 / 44          77
//        8192 x 2048        30 / 9     28 / 12     44 / 16     46 / 27     71 / 52         102
//        2048 x 2048        14 / 7      14 / 9     16 / 10     16 / 13     21 / 17          29
//        2048 x 8192       36 / 11     32 / 15     41 / 20     44 / 30     60 / 51          86
//   3 x  4096 x 4096       92 / 21     91 / 28    126 / 46    140 / 80   222 / 132         261
//       16384 x 4096      100 / 22     96 / 30    104 / 47    154 / 90   257 / 183         379
//        4096 x 4096       30 / 11     29 / 14     39 / 18     41 / 29     63 / 48         101
//        4096 x 16384      95 / 26     95 / 33    132 / 55    141 / 90   223 / 161         320

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

/// log2 of how many sharers' columns a block takes at most.
inline constexpr int kMostSharersShift = 2;

/// Which of the crowds' tiles, and how the columns, which are those of `sharers`, are divided. Neither changes a bit.
struct CrowdTiling {
  int tile;
  Split split;
};
inline CrowdTiling crowd_tiling(int linears, int n, int k, int rows, int sharers) {
  CrowdTiling best{};
  float least = std::numeric_limits<float>::infinity();
  for (int tile = 0; tile < static_cast<int>(std::size(kCrowdTiles)); ++tile) {
    each_split(std::min(sharers, k / kFusedColumns), [&](const Split& split) {
      if (sharers % split.parts != 0 || sharers / split.parts > 1 << kMostSharersShift) return;
      const float found = fused_us(linears, n, k, rows, split, kCrowdTiles[tile]);
      if (found < least) best = {tile, split}, least = found;
    });
  }
  return best;
}

}  // namespace nibble
