#include "kernels/cuda/linear_few.cuh"

namespace nibble {

NIBBLE_FEW(Half, Dense<Half>)
NIBBLE_FEW(Half, Int8Row)
NIBBLE_FEW(Half, Lut4<F32Scale>)
NIBBLE_FEW(Half, Lut4<NestedScale>)
NIBBLE_FEW(Half, Int4Group<SymmetricZero>)
NIBBLE_FEW(Half, Int4Group<ZeroPoints>)

}  // namespace nibble
