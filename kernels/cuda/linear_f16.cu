#include "kernels/cuda/linear_decode.cuh"

namespace nibble {

NIBBLE_DECODE(Half, Dense<Half>)
NIBBLE_DECODE(Half, Int8Row)
NIBBLE_DECODE(Half, Lut4<F32Scale>)
NIBBLE_DECODE(Half, Lut4<NestedScale>)
NIBBLE_DECODE(Half, Int4Group<SymmetricZero>)
NIBBLE_DECODE(Half, Int4Group<ZeroPoints>)

}  // namespace nibble
