// Weights that a GPU makes itself: encoded from floating-point ones, or made up. The same bits as on a CPU.
#pragma once

#include "kernels/cuda/memory.h"
#include "kernels/random_weight.h"

namespace nibble {

/// A floating-point weight in host memory, all of whose values are finite, rounded or quantized to `target` on its way.
template <class T>
Weight encode_on_device(const Dense<T>& weight, const Storage& target, DeviceMemory& memory);

/// What make_random_weight makes.
Weight random_on_device(const RandomWeight& weight, DeviceMemory& memory);

}  // namespace nibble
