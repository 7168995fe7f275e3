#include "kernels/cuda/linear_crowd.cuh"

namespace nibble {

NIBBLE_CROWD(Half, Dense<Half>)
NIBBLE_CROWD(Half, Int8Row)
NIBBLE_CROWD(Half, Lut4<F32Scale>)
NIBBLE_CROWD(Half, Lut4<NestedScale>)
NIBBLE_CROWD(Half, Int4Group<SymmetricZero>)
NIBBLE_CROWD(Half, Int4Group<ZeroPoints>)

}  // namespace nibble
