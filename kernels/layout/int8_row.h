// LLM.int8() weights: one byte a weight, one absmax a row (arXiv:2208.07339; bitsandbytes names the row's absmax SCB).
#pragma once

#include <span>

#include "kernels/buffer.h"
#include "kernels/numeric.h"

namespace nibble {

struct Int8Row {
  Buffer codes;  ///< int8[n, k]
  Buffer scb;    ///< float[n]
  int n, k;

  struct View {
    const std::int8_t* codes;
    const float* scb;
    int n, k;

    /// fp32(1/127), as bitsandbytes multiplies by it (csrc/kernels.cu, int8_vectorwise_dequant).
    static constexpr float kInverse127 = 7.874015718698502e-3F;
    /// fp32(1/127^2), of a product of two codes.
    static constexpr float kInverse127Squared = 6.200012e-5F;
    NIBBLE_HD float scale(std::int64_t row) const { return scb[row] * kInverse127; }
    NIBBLE_HD float decode(std::int64_t row, std::int64_t col) const {
      return static_cast<float>(codes[row * k + col]) * scb[row] * kInverse127;
    }
  };

  View view() const { return {codes.as<std::int8_t>(), scb.as<float>(), n, k}; }
  std::uint64_t code_bytes() const { return codes.size(); }
  std::uint64_t state_bytes() const { return scb.size(); }
};

/// The same weights, multiplied as LLM.int8() does (bitsandbytes' Linear8bitLt): of a row of x, rounded to fp16,
/// elements of magnitude kOutlier and more are outliers. They are multiplied in the compute dtype, by weights rounded
/// to it; the others as whole numbers, 127 for the largest of their magnitudes:
///   y = sum(code_x * code_w) * absmax_x * scb / 127^2 + sum(outlier_x * rounded(decode(w)))
/// bitsandbytes looks for outliers in the columns of a whole batch; here, as everywhere, a row is alone, which is what
/// bitsandbytes computes for a batch of one row.
struct Int8Decomp : Int8Row {
  static constexpr float kOutlier = 6.0F;
};

/// Quantizes rows: `weights` and `codes` are [rows, cols], `scb` is [rows]. Weights are rounded to fp16 first, as
/// bitsandbytes does. Bit-identical to bitsandbytes' int8_vectorwise_quant with threshold 0.
void encode_int8_rows(std::span<const float> weights, int cols, std::span<std::int8_t> codes, std::span<float> scb);

}  // namespace nibble
