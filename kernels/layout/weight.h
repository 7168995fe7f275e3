// A weight matrix in any layout nibble knows. This line is the list: tests, benchmarks, byte counts and dispatch
// iterate over it.
#pragma once

#include <variant>

#include "kernels/layout/dense.h"
#include "kernels/layout/int4_group.h"
#include "kernels/layout/int8_row.h"
#include "kernels/layout/lut4.h"

namespace nibble {

using Weight = std::variant<Dense<float>, Dense<Half>, Dense<BFloat16>, Int8Row, Int8Decomp, Lut4<F32Scale>,
                            Lut4<NestedScale>, Int4Group<SymmetricZero>, Int4Group<ZeroPoints>>;

/// A weight of n rows (outputs) and k columns (inputs), as torch.nn.Linear and torch.nn.Embedding keep it.
int rows(const Weight& weight);
int cols(const Weight& weight);

/// Bytes of the weights themselves, and of what decoding needs beside them.
std::uint64_t code_bytes(const Weight& weight);
std::uint64_t state_bytes(const Weight& weight);

/// Every weight as a number, in fp32: `values` is [n, k], row-major. Exactly what bitsandbytes and
/// AutoGPTQ dequantize to.
void decode_all(const Weight& weight, std::span<float> values);

}  // namespace nibble
