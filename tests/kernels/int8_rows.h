// Rows of x as int8 products have them, for references in fp64.
#pragma once

#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "kernels/layout/weight.h"

namespace nibble {

/// A row in whole numbers of steps; outliers have 0 and stay what they are.
struct Int8Elements {
  std::vector<int> codes;
  std::vector<std::size_t> outliers;  ///< their columns
  float absmax = 0;                   ///< what 127 stands for
};

/// `outlier`: from what magnitude on elements, as they are given, are outliers.
inline Int8Elements int8_elements(std::span<const float> row, float outlier = std::numeric_limits<float>::infinity()) {
  Int8Elements result;
  for (std::size_t i = 0; i < row.size(); ++i) {
    if (std::fabs(row[i]) < outlier) {
      result.absmax = std::max(result.absmax, std::fabs(row[i]));
    } else {
      result.outliers.push_back(i);
    }
  }
  const float inverse = result.absmax > 0 ? 127 / result.absmax : 0;
  for (const float value : row) {
    result.codes.push_back(std::fabs(value) < outlier ? static_cast<int>(std::nearbyint(value * inverse)) : 0);
  }
  return result;
}

/// The same as LLM.int8() has it.
inline Int8Elements decomposed(std::span<const float> row) {
  std::vector<float> halves;
  for (const float value : row) halves.push_back(rounded<Half>(value));
  return int8_elements(halves, Int8Decomp::kOutlier);
}

/// Rows of x as they are multiplied by a weight: beside Int8Decomp, the nearest whole steps, and outliers.
inline std::vector<float> as_multiplied(const Weight& weight, std::vector<float> x) {
  if (!std::holds_alternative<Int8Decomp>(weight)) return x;
  const auto k = static_cast<std::size_t>(cols(weight));
  for (std::size_t first = 0; first < x.size(); first += k) {
    const std::span row = std::span(x).subspan(first, k);
    const Int8Elements elements = decomposed(row);
    for (std::size_t i = 0; i < k; ++i) {
      if (std::fabs(rounded<Half>(row[i])) < Int8Decomp::kOutlier) {
        row[i] = static_cast<float>(elements.codes[i] * static_cast<double>(elements.absmax) / 127);
      }
    }
  }
  return x;
}

}  // namespace nibble
