// 4-bit codes that index a table of 16 levels, scaled by one absmax a block: NF4 and FP4 of bitsandbytes (QLoRA,
// arXiv:2305.14314), with plain or double-quantized absmax. Blocks run over the flattened weight and may span rows.
#pragma once

#include <array>
#include <span>

#include "kernels/buffer.h"
#include "kernels/layout/codes4.h"

namespace nibble {

/// One fp32 absmax a block.
struct F32Scale {
  Buffer absmax;  ///< float[blocks]

  struct View {
    const float* absmax;
    NIBBLE_HD float operator[](std::int64_t block) const { return absmax[block]; }
  };
  View view() const { return {absmax.as<float>()}; }
  std::uint64_t bytes() const { return absmax.size(); }
};

/// Double quantization: absmax values minus their mean, themselves quantized in blocks of 256 to 8 bits.
struct NestedScale {
  static constexpr int kBlocksize = 256;  ///< the only nested block size bitsandbytes knows

  Buffer absmax;         ///< uint8[blocks]
  Buffer nested_absmax;  ///< float[ceil(blocks / 256)]
  Buffer nested_table;   ///< float[256], see shared_table
  float offset;          ///< the mean

  struct View {
    const std::uint8_t* absmax;
    const float* nested_absmax;
    const float* nested_table;
    float offset;
    NIBBLE_HD float entry(std::int64_t block) const { return nested_table[absmax[block]]; }
    NIBBLE_HD float operator[](std::int64_t block) const {
      return entry(block) * nested_absmax[block / kBlocksize] + offset;
    }
  };
  View view() const { return {absmax.as<std::uint8_t>(), nested_absmax.as<float>(), nested_table.as<float>(), offset}; }
  std::uint64_t bytes() const { return absmax.size() + nested_absmax.size() + sizeof offset; }
};

template <class Scale>
struct Lut4 {
  Buffer codes;   ///< uint8[ceil(n * k / 2)], see codes4.h
  Buffer levels;  ///< float[16], see shared_table
  Scale scale;
  int blocksize;  ///< a power of two, 32 to 4096
  int n, k;

  struct View {
    const std::uint8_t* codes;
    const float* levels;
    typename Scale::View absmax;
    int block_shift;  ///< log2(blocksize)
    int n, k;

    NIBBLE_HD int code(std::int64_t flat) const { return code4(codes, flat); }
    NIBBLE_HD float decode(std::int64_t row, std::int64_t col) const {
      const std::int64_t flat = row * k + col;
      return levels[code(flat)] * absmax[flat >> block_shift];
    }
  };

  View view() const {
    return {codes.as<std::uint8_t>(),
            levels.as<float>(),
            scale.view(),
            std::countr_zero(static_cast<unsigned>(blocksize)),
            n,
            k};
  }
  std::uint64_t code_bytes() const { return codes.size(); }
  /// Tables of levels are constants that all weights share and are not counted.
  std::uint64_t state_bytes() const { return scale.bytes(); }
};

/// What a 4-bit code stands for, times its block's absmax. Values from bitsandbytes (csrc/kernels.cu).
extern const std::array<float, 16> kNf4Levels;
extern const std::array<float, 16> kFp4Levels;

/// The signed 8-bit dynamic map of bitsandbytes (functional.py, create_dynamic_map), which nested absmax indexes.
extern const std::array<float, 256> kDynamicMap;

/// A constant table as the buffer every weight that uses it shares.
Buffer shared_table(std::span<const float> table);

/// Quantizes `weights` in blocks; the first weight of each pair goes to the high nibble and an odd last pair is filled
/// with zero. `codes` has ceil(n/2) bytes, `absmax` ceil(n/blocksize). Bit-identical to bitsandbytes'
/// quantize_4bit. A large weight may be encoded in pieces, each a multiple of blocksize.
void encode_nf4(std::span<const float> weights, int blocksize, std::span<std::uint8_t> codes, std::span<float> absmax);
void encode_fp4(std::span<const float> weights, int blocksize, std::span<std::uint8_t> codes, std::span<float> absmax);

/// Double quantization of a weight's absmax values. Bit-identical to bitsandbytes' compress_statistics.
NestedScale encode_nested(std::span<const float> absmax);

}  // namespace nibble
