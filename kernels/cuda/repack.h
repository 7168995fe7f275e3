// Bringing weights to the GPU, into tiles where they fit them (see tiles.cuh).
#pragma once

#include "kernels/cuda/memory.h"
#include "kernels/storage.h"

namespace nibble {

/// A weight on the device, kept as `target` says: the bits that `store` makes, whose errors it throws. It is there for
/// what the memory's stream is asked afterwards.
Weight to_device(const Weight& weight, const Storage& target, std::string_view name, DeviceMemory& memory);

}  // namespace nibble
