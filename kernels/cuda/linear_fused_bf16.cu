#include "kernels/cuda/linear_fused.cuh"

namespace nibble {

NIBBLE_FUSED(BFloat16, Int8Row)
NIBBLE_FUSED(BFloat16, Lut4<F32Scale>)
NIBBLE_FUSED(BFloat16, Lut4<NestedScale>)

}  // namespace nibble
