#include "kernels/layout/int8_row.h"

#include <cmath>

#include "kernels/layout/encode.h"

namespace nibble {
namespace {

float row_absmax(std::span<const float> row) {
  float absmax = 0;
  for (const float weight : row) absmax = std::fmax(absmax, std::fabs(rounded<Half>(weight)));
  return absmax;
}

}  // namespace

void encode_int8_rows(std::span<const float> weights, int cols, std::span<std::int8_t> codes, std::span<float> scb) {
  const auto k = static_cast<std::size_t>(cols);
  for (std::size_t row = 0; row < scb.size(); ++row) {
    const auto source = weights.subspan(row * k, k);
    scb[row] = row_absmax(source);
    const float factor = int8_factor(scb[row]);
    for (std::size_t i = 0; i < k; ++i) codes[row * k + i] = int8_code(source[i], factor);
  }
}

}  // namespace nibble
