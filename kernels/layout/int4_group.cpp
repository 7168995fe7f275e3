#include "kernels/layout/int4_group.h"

#include <algorithm>
#include <cmath>

namespace nibble {
namespace {

constexpr float kMostCode = 15.0F;

/// What a group's codes are counted by.
struct Grid {
  float scale, zero;
};

/// The range of a group and 0; a group of zeros counts as -1 to 1.
struct Range {
  float min = 0, max = 0;

  explicit Range(std::span<const float> group) {
    for (const float weight : group) min = std::min(min, weight), max = std::max(max, weight);
    if (min == 0 && max == 0) min = -1, max = 1;
  }
};

Grid symmetric_grid(const Range& range) {
  const float largest = std::max(-range.min, range.max);
  return {(largest + largest) / kMostCode, 8.0F};
}

Grid asymmetric_grid(const Range& range) {
  const float scale = (range.max - range.min) / kMostCode;
  return {scale, std::nearbyint(-range.min / scale)};
}

/// A whole number from 0 to 15; NaN is 0.
std::uint8_t in_range(float code) { return static_cast<std::uint8_t>(std::min(std::max(0.0F, code), kMostCode)); }

std::uint8_t nearest_code(float weight, const Grid& grid) {
  return in_range(std::nearbyint(weight / grid.scale) + grid.zero);
}

/// Calls keep(group, grid) for every group and writes its codes.
template <class GridOf, class Keep>
void encode(std::span<const float> weights, int cols, int group_size, std::span<std::uint8_t> codes, GridOf grid_of,
            Keep keep) {
  const auto k = static_cast<std::size_t>(cols);
  const auto size = static_cast<std::size_t>(group_size);
  std::ranges::fill(codes, std::uint8_t{0});
  std::size_t group = 0;
  for (std::size_t row = 0; row < weights.size(); row += k) {
    for (std::size_t first = row; first < row + k; first += size) {
      const auto values = weights.subspan(first, std::min(size, row + k - first));
      const Grid grid = grid_of(Range(values));
      keep(group++, grid);
      for (std::size_t i = 0; i < values.size(); ++i) {
        const std::uint8_t code = nearest_code(values[i], grid);
        codes[(first + i) / 2] |= static_cast<std::uint8_t>((first + i) % 2 == 0 ? code << 4 : code);
      }
    }
  }
}

}  // namespace

void encode_int4(std::span<const float> weights, int cols, int group_size, std::span<std::uint8_t> codes,
                 std::span<Half> scales) {
  encode(weights, cols, group_size, codes, symmetric_grid,
         [&](std::size_t group, const Grid& grid) { scales[group] = round_to<Half>(grid.scale); });
}

void encode_int4_asym(std::span<const float> weights, int cols, int group_size, std::span<std::uint8_t> codes,
                      std::span<Half> scales, std::span<std::uint8_t> zeros) {
  encode(weights, cols, group_size, codes, asymmetric_grid, [&](std::size_t group, const Grid& grid) {
    scales[group] = round_to<Half>(grid.scale);
    zeros[group] = in_range(grid.zero);
  });
}

}  // namespace nibble
