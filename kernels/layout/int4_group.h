// 4-bit integers in groups along a row, each with a scale and a zero point: what GPTQ (arXiv:2210.17323) and AWQ
// (arXiv:2306.00978) compute with. A weight is (code - zero point) * scale. Groups begin anew with every row; a row's
// last one may be short.
#pragma once

#include <span>

#include "kernels/buffer.h"
#include "kernels/layout/codes4.h"

namespace nibble {

/// Symmetric: the zero point of every group is 8, and takes no memory.
struct SymmetricZero {
  struct View {
    NIBBLE_HD float operator[](std::int64_t) const { return 8.0F; }
  };
  View view() const { return {}; }
  std::uint64_t bytes() const { return 0; }
};

/// Asymmetric: each group has its own.
struct ZeroPoints {
  Buffer zeros;  ///< uint8[n, groups], 0 to 15

  struct View {
    const std::uint8_t* zeros;
    NIBBLE_HD float operator[](std::int64_t group) const { return static_cast<float>(zeros[group]); }
  };
  View view() const { return {zeros.as<std::uint8_t>()}; }
  std::uint64_t bytes() const { return zeros.size(); }
};

/// Groups of a row of k weights.
constexpr int groups_in_row(int k, int group_size) { return (k + group_size - 1) / group_size; }

template <class Zero>
struct Int4Group {
  Buffer codes;   ///< uint8[ceil(n * k / 2)], see codes4.h
  Buffer scales;  ///< Half[n, groups]
  Zero zero;
  int group_size;  ///< a power of two, 32 to 4096, or k
  int n, k;

  struct View {
    const std::uint8_t* codes;
    const Half* scales;
    typename Zero::View zeros;
    int groups;       ///< of a row
    int group_shift;  ///< columns shifted by it are the group's number in the row
    int n, k;

    NIBBLE_HD std::int64_t group(std::int64_t row, std::int64_t col) const {
      return row * groups + (col >> group_shift);
    }
    /// Exact: five bits times the eleven of the scale.
    NIBBLE_HD float decode(std::int64_t row, std::int64_t col) const {
      const std::int64_t g = group(row, col);
      return (static_cast<float>(code4(codes, row * k + col)) - zeros[g]) * to_float(scales[g]);
    }
  };

  int groups() const { return groups_in_row(k, group_size); }
  /// log2 of a power of two; one of k is rounded up, to 32 at least, which leaves all of a row in group 0.
  int group_shift() const { return static_cast<int>(std::bit_width(static_cast<unsigned>(group_size - 1) | 31U)); }
  View view() const {
    return {codes.as<std::uint8_t>(), scales.as<Half>(), zero.view(), groups(), group_shift(), n, k};
  }
  std::uint64_t code_bytes() const { return codes.size(); }
  std::uint64_t state_bytes() const { return scales.size() + zero.bytes(); }
};

/// Quantizes whole rows to the nearest: `weights` is [rows, cols]; `codes` has ceil(rows * cols / 2) bytes, an odd last
/// pair is filled with 0; `scales` and `zeros` are [rows, groups]. With min and max the least and the largest of a
/// group and 0, all in fp32:
///   symmetric    scale = 2 max(-min, max) / 15, zero = 8
///   asymmetric   scale = (max - min) / 15,      zero = round(-min / scale)
///   code = clamp(round(weight / scale) + zero, 0, 15), halves to even; the scale is then rounded to fp16.
/// A group of zeros is one of scale 2 / 15. Bit-identical to AutoGPTQ's rounding to nearest (Quantizer, QuantLinear),
/// but for symmetric groups that have no negative weight, whose largest AutoGPTQ would cut to half. A large weight may
/// be encoded in pieces of an even number of weights. Weights beyond 491,000 have scales that fp16 has not.
void encode_int4(std::span<const float> weights, int cols, int group_size, std::span<std::uint8_t> codes,
                 std::span<Half> scales);
void encode_int4_asym(std::span<const float> weights, int cols, int group_size, std::span<std::uint8_t> codes,
                      std::span<Half> scales, std::span<std::uint8_t> zeros);

}  // namespace nibble
