// What the operating system and a GPU's driver say of this process.
#pragma once

#include <cstdint>

#include "nibble/types.h"

namespace nibble {

/// The process's resident set, in bytes.
std::uint64_t resident_memory();

/// MemoryLedger::device_overhead; 0 for the CPU.
std::uint64_t overhead_memory(Device device);

}  // namespace nibble
