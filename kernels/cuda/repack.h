// Bringing weights to the GPU, into tiles where they fit them.
#pragma once

#include "kernels/cuda/memory.h"
#include "kernels/layout/weight.h"

namespace nibble {

/// A copy of the weight on the device; see tiles.cuh. The result is ready when this returns.
Weight to_device(const Weight& weight, DeviceMemory& memory);

}  // namespace nibble
