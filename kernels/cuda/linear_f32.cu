#include "kernels/cuda/linear_decode.cuh"

namespace nibble {

NIBBLE_DECODE(float, Dense<float>)
NIBBLE_DECODE(float, Dense<Half>)
NIBBLE_DECODE(float, Dense<BFloat16>)
NIBBLE_DECODE(float, Int8Row)
NIBBLE_DECODE(float, Lut4<F32Scale>)
NIBBLE_DECODE(float, Lut4<NestedScale>)
NIBBLE_DECODE(float, Int4Group<SymmetricZero>)
NIBBLE_DECODE(float, Int4Group<ZeroPoints>)

}  // namespace nibble
