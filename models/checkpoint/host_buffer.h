// Memory for tensor contents that cannot be used where the file has them: misaligned, strided or compressed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "models/checkpoint/checkpoint.h"

namespace nibble {

/// A block aligned for every element type, released with its last owner.
struct HostBuffer {
  std::span<std::byte> data;
  std::shared_ptr<const void> owner;
};

/// Throws Error{kOutOfMemory} naming `what`.
HostBuffer allocate(std::uint64_t bytes, const std::string& what);

/// `data` itself when it is aligned for `dtype`, else an aligned copy.
HostTensor aligned(std::span<const std::byte> data, std::shared_ptr<const void> owner, DType dtype,
                   const std::string& what);

}  // namespace nibble
