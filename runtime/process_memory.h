// What the operating system says of this process.
#pragma once

#include <cstdint>

namespace nibble {

/// The process's resident set, in bytes.
std::uint64_t resident_memory();

}  // namespace nibble
