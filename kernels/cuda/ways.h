// Which way a linear goes, and the measurements it was decided by.
#pragma once

#include <span>

#include "kernels/cuda/tiles.cuh"

namespace nibble {

/// How long a row's segment is. With the weight's layout and shape it decides how the row is computed.
enum class Length { kFew, kSome, kMany };
inline constexpr int kMostFewRows = 16;
inline constexpr int kMostSomeRows = 1024;

inline Length length_of(int rows) {
  return rows <= kMostFewRows ? Length::kFew : rows <= kMostSomeRows ? Length::kSome : Length::kMany;
}

/// Whether rows of segments of this length go the fused way, given a GPU that has it.
inline bool is_fused(int n, int k, Length length) { return length == Length::kSome && n >= 256 && k % 256 == 0; }

}  // namespace nibble
