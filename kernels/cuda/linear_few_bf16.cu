#include "kernels/cuda/linear_few.cuh"

namespace nibble {

NIBBLE_FEW(BFloat16, Dense<BFloat16>)
NIBBLE_FEW(BFloat16, Int8Row)
NIBBLE_FEW(BFloat16, Lut4<F32Scale>)
NIBBLE_FEW(BFloat16, Lut4<NestedScale>)
NIBBLE_FEW(BFloat16, Int4Group<SymmetricZero>)
NIBBLE_FEW(BFloat16, Int4Group<ZeroPoints>)

}  // namespace nibble
