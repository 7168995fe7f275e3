// What the operating system and a GPU's driver say of this process.
#pragma once

#include <cstdint>
#include <filesystem>

#include "nibble/types.h"

namespace nibble {

/// The process's resident set, in bytes.
std::uint64_t resident_memory();

/// Bytes that the process's control group and those above it leave it, the least of all; the largest number where none
/// has a limit. Reads proc/self/cgroup and sys/fs/cgroup below `root`: groups of version 2, as limits of version 1 are
/// not known here.
std::uint64_t control_group_available(const std::filesystem::path& root);

/// MemoryLedger::device_overhead; 0 for the CPU.
std::uint64_t overhead_memory(Device device);

}  // namespace nibble
