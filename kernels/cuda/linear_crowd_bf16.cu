#include "kernels/cuda/linear_crowd.cuh"

namespace nibble {

NIBBLE_CROWD(BFloat16, Dense<BFloat16>)
NIBBLE_CROWD(BFloat16, Int8Row)
NIBBLE_CROWD(BFloat16, Lut4<F32Scale>)
NIBBLE_CROWD(BFloat16, Lut4<NestedScale>)
NIBBLE_CROWD(BFloat16, Int4Group<SymmetricZero>)
NIBBLE_CROWD(BFloat16, Int4Group<ZeroPoints>)

}  // namespace nibble
