#include "kernels/cuda/linear_few.cuh"

namespace nibble {

NIBBLE_FEW(float, Dense<float>)
NIBBLE_FEW(float, Dense<Half>)
NIBBLE_FEW(float, Dense<BFloat16>)
NIBBLE_FEW(float, Int8Row)
NIBBLE_FEW(float, Lut4<F32Scale>)
NIBBLE_FEW(float, Lut4<NestedScale>)
NIBBLE_FEW(float, Int4Group<SymmetricZero>)
NIBBLE_FEW(float, Int4Group<ZeroPoints>)

}  // namespace nibble
