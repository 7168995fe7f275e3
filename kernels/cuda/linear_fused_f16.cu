#include "kernels/cuda/linear_fused.cuh"

namespace nibble {

NIBBLE_FUSED(Half, Int8Row)
NIBBLE_FUSED(Half, Lut4<F32Scale>)
NIBBLE_FUSED(Half, Lut4<NestedScale>)
NIBBLE_FUSED(Half, Int4Group<SymmetricZero>)
NIBBLE_FUSED(Half, Int4Group<ZeroPoints>)

}  // namespace nibble
