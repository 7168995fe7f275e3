// Which way a linear goes, and the measurements it was decided by.
#pragma once

#include <cstdint>

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

// Products with nf4 weights [n, k] in fp16, us: fused / expanded, then cuBLASLt. One H200, weights from memory, graphs
// of 4 to 16 calls, the fused way with x arranged, 2026-11-26. Nested absmax and int8 were
// within a fifth of these in an earlier version.
//
//        n x k       32 rows     64           128          256          512          1024
//   16384 x 4096    27 / 200    31 / 199    41 / 200     75 / 206    136 / 210    263 / 286
//   4096 x 16384    47 / 251    52 / 252    71 / 252     76 / 254    133 / 259    269 / 287
//   4096 x 4096     15 / 64     18 / 65     24 / 65      27 / 65      46 / 66      84 / 71
//   8192 x 2048     15 / 46     17 / 47     23 / 47      25 / 48      45 / 51      81 / 73
//   2048 x 8192     16 / 64     18 / 64     26 / 64      52 / 64      86 / 65     130 / 71
//   1024 x 1024     6.5 / 8.9   7.7 / 8.9   12 / 8.7     12 / 8.8

/// Into how many parts the fused way divides the columns of a weight for rows of segments of this length: so many that
/// there is work for the machine, and not fewer than 1,024 columns for each. 0 where another way is faster.
inline int fused_split(int n, int k, Length length) {
  const std::int64_t fewest = length <= Length::kSome   ? std::int64_t{1} << 22
                              : length == Length::kMore ? std::int64_t{1} << 26
                                                        : INT64_MAX;
  if (std::int64_t{n} * k < fewest || k % 512 != 0) return 0;
  constexpr int kMost = 8, kTiles = 64, kRows = 128, kFewestColumns = 1024;
  int split = 1;
  while (split < kMost && 2 * split * ((n + kRows - 1) / kRows) <= kTiles && k >= 2 * split * kFewestColumns)
    split *= 2;
  return split;
}

}  // namespace nibble
