#include "kernels/cuda/linear_fused.cuh"

namespace nibble {

NIBBLE_FUSED(BFloat16, Int8Row)
NIBBLE_FUSED(BFloat16, Lut4<F32Scale>)
NIBBLE_FUSED(BFloat16, Lut4<NestedScale>)
NIBBLE_FUSED(BFloat16, Int4Group<SymmetricZero>)
NIBBLE_FUSED(BFloat16, Int4Group<ZeroPoints>)

}  // namespace nibble
