// The vocabulary every room shares: element types, quantization schemes, devices. Plain values, no behaviour.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace nibble {

/// Element type of a tensor in a file or in memory. Compute dtypes are the first three.
enum class DType : std::uint8_t { kF32, kF16, kBF16, kF64, kI64, kI32, kI16, kI8, kU64, kU32, kU16, kU8, kBool };

/// How the weights of the linear layers are stored. Names as in bitsandbytes' own benchmarks, and OpenVINO's for int4.
enum class Scheme : std::uint8_t {
  kNone,        ///< 16 or 32-bit floating point
  kInt8,        ///< LLM.int8() weights: row absmax, one byte a weight (arXiv:2208.07339)
  kInt8Decomp,  ///< the same, multiplied as LLM.int8() does: activations in 8 bits too, but for their outliers
  kFp4,         ///< 4-bit float codes, one absmax a block
  kNf4,         ///< 4-bit NormalFloat codes, one absmax a block (QLoRA, arXiv:2305.14314)
  kFp4Dq,       ///< fp4 with double quantization: the absmax values are themselves stored in 8 bits
  kNf4Dq,       ///< nf4 with double quantization
  kInt4,        ///< 4-bit integers in groups along a row, one fp16 scale a group, zero point 8 (GPTQ, arXiv:2210.17323)
  kInt4Asym,    ///< int4 with a zero point of its own for each group (GPTQ and AWQ, arXiv:2306.00978)
};

/// All of them, in their order.
inline constexpr std::array<Scheme, 9> kSchemes{Scheme::kNone,  Scheme::kInt8, Scheme::kInt8Decomp,
                                                Scheme::kFp4,   Scheme::kNf4,  Scheme::kFp4Dq,
                                                Scheme::kNf4Dq, Scheme::kInt4, Scheme::kInt4Asym};

/// How the token table (and the output head) is stored.
enum class EmbeddingStorage : std::uint8_t {
  kCompute,  ///< in the compute dtype, as bitsandbytes leaves it
  kInt8,     ///< row-wise int8, as the linear layers of scheme int8
};

enum class Device : std::uint8_t { kCpu, kCuda };

/// Bytes of one element.
std::size_t size_of(DType dtype);

/// Short lower-case names: "fp32", "fp16", "bf16", "int8", "uint8", …; "nf4-dq", …; "cpu", "cuda".
std::string_view to_string(DType dtype);
std::string_view to_string(Scheme scheme);
std::string_view to_string(Device device);

/// The value with that name, or nothing. Of dtypes the compute dtypes only; of embeddings "compute" and "int8".
std::optional<DType> parse_compute_dtype(std::string_view name);
std::optional<Scheme> parse_scheme(std::string_view name);
std::optional<Device> parse_device(std::string_view name);
std::optional<EmbeddingStorage> parse_embedding(std::string_view name);

}  // namespace nibble
