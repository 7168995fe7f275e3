#include "kernels/cuda/linear_decode.cuh"

namespace nibble {

NIBBLE_DECODE(BFloat16, Dense<BFloat16>)
NIBBLE_DECODE(BFloat16, Int8Row)
NIBBLE_DECODE(BFloat16, Lut4<F32Scale>)
NIBBLE_DECODE(BFloat16, Lut4<NestedScale>)
NIBBLE_DECODE(BFloat16, Int4Group<SymmetricZero>)
NIBBLE_DECODE(BFloat16, Int4Group<ZeroPoints>)

}  // namespace nibble
