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
inline constexpr int kFusedRows = 256, kFusedColumns = 256, kMostSplit = 8;
inline constexpr int kNarrow = 64, kWide = 128;

/// Whether tiles of so many rows of x can be divided so: a block has room for its share of all blocks' sums, by eights.
constexpr bool fused_takes(int columns, int split) { return columns == kNarrow || kWide / 8 % split == 0; }

/// About what a launch takes that has `tiles` tiles of k columns, us: how often clusters take turns, and in each turn
/// the steps of 64 columns and what is around them. Parts' times on one H200, nf4, fp16, 2026-11-29.
inline float fused_us(int tiles, int k, int columns, int split) {
  constexpr int kClusters[kMostSplit + 1] = {0, 132, 66, 39, 30, 22, 17, 15, 15};  // of each size, at once
  const int turns = (tiles + kClusters[split] - 1) / kClusters[split];
  const float steps = static_cast<float>(k / 64) / static_cast<float>(split);
  const bool narrow = columns == kNarrow;
  const float around = split == 1 ? (narrow ? 2.0F : 4.0F) : (narrow ? 5.0F : 9.0F);
  return static_cast<float>(turns) * (steps * (narrow ? 0.58F : 0.82F) + around);
}

/// The best tile for `rows` rows of x and so many linears with weights [n, k].
struct FusedTiling {
  int columns;
  float us;
};
inline FusedTiling fused_tiling(int linears, int n, int k, int rows, int split) {
  const auto us = [&](int columns) {
    const int row_tiles = (n + kFusedRows - 1) / kFusedRows, column_tiles = (rows + columns - 1) / columns;
    return fused_us(linears * row_tiles * column_tiles, k, columns, split);
  };
  const bool wide = fused_takes(kWide, split) && us(kWide) < us(kNarrow);
  return {wide ? kWide : kNarrow, us(wide ? kWide : kNarrow)};
}

// Beside it, expanded weights and cuBLASLt take some 1.2 us for each million weights, their product, and at least 9 us
// for each linear. One H200, nf4, fp16, us a call (`nibble bench --kernels`; LayerNorm is in those of the first and
// second of four): expanded / fused, 2026-11-29. What is not chosen was measured with versions of the same day.
//
//        n x k            64 rows      128          512         1900
//   3 x  1024 x 1024      38 / 12      38 / 13      41 / 21     57 / 49
//        4096 x 1024      18 / 14      18 / 15      22 / 23     46 / 50
//        1024 x 1024      11 / 12      11 / 12      11 / 15     16 / 25
//        1024 x 4096      44 / 14      44 / 16      21 / 28     36 / 49
//   3 x  2048 x 2048      53 / 16      53 / 21      65 / 36    135 / 105
//        8192 x 2048      40 / 19      38 / 21      56 / 37    130 / 136
//        2048 x 2048      17 / 14      17 / 15      19 / 26     35 / 45
//        2048 x 8192      40 / 25      40 / 30      52 / 53    111 / 130
//   3 x  4096 x 4096     120 / 30     123 / 39     167 / 112   414 / 376
//       16384 x 4096     154 / 33     147 / 41     199 / 121   493 / 472
//        4096 x 4096      39 / 26      39 / 27      50 / 47    119 / 134
//        4096 x 16384    516 / 42     526 / 74     329 / 128   462 / 471

/// Into how many parts the fused way divides the columns of a weight for rows of segments of this length; 0 where
/// another way is faster. What is best for likely numbers of rows; square weights are q, k and v, which are multiplied
/// together, and the one behind attention.
inline int fused_split(int n, int k, Length length) {
  struct Class {
    int rows;                 ///< the most that are likely
    int least_square, least;  ///< log2 of the fewest weights
  };
  constexpr Class kClasses[] = {{kMostShortRows, 19, 21},  // Length::kFew, which goes another way
                                {kMostShortRows, 19, 21},
                                {kMostSomeRows, 20, 23},
                                {kMostMoreRows, 21, 24},
                                {2 * kMostMoreRows, 22, 62}};
  const Class& likely = kClasses[static_cast<int>(length)];
  const bool square = n == k;
  const std::int64_t fewest = std::int64_t{1} << (square ? likely.least_square : likely.least);
  if (k % kFusedColumns != 0 || std::int64_t{n} * k < fewest) return 0;
  const auto us = [&](int split) {
    float sum = 0;
    for (const int linears : {1, 3}) {
      if (linears == 3 && !square) break;
      for (const int rows : {likely.rows / 2, likely.rows}) sum += fused_tiling(linears, n, k, rows, split).us;
    }
    return sum;
  };
  int best = 1;
  float least = us(best);
  for (int split = 2; split <= std::min(kMostSplit, k / kFusedColumns); ++split) {
    if (const float found = us(split); found < least) best = split, least = found;
  }
  return best;
}

}  // namespace nibble
