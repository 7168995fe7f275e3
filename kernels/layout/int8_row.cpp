#include "kernels/layout/int8_row.h"

#include <cmath>

namespace nibble {
namespace {

float row_absmax(std::span<const float> row) {
  float absmax = 0;
  for (const float weight : row) absmax = std::fmax(absmax, std::fabs(rounded<Half>(weight)));
  return absmax;
}

/// A row of zeros makes 0 * inf = NaN here, which bitsandbytes turns into code 0.
std::int8_t nearest_code(float value) {
  return std::isfinite(value) ? static_cast<std::int8_t>(std::nearbyint(value)) : std::int8_t{0};
}

}  // namespace

void encode_int8_rows(std::span<const float> weights, int cols, std::span<std::int8_t> codes, std::span<float> scb) {
  const auto k = static_cast<std::size_t>(cols);
  for (std::size_t row = 0; row < scb.size(); ++row) {
    const auto source = weights.subspan(row * k, k);
    scb[row] = row_absmax(source);
    // Both of bitsandbytes' paths multiply by the reciprocal: torch divides a number by a tensor so, and CUDA's
    // __fdividef does.
    const float scale = (1.0F / scb[row]) * 127.0F;
    for (std::size_t i = 0; i < k; ++i) codes[row * k + i] = nearest_code(rounded<Half>(source[i]) * scale);
  }
}

}  // namespace nibble
