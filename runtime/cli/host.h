// What the operating system says of the machine and of this process, for reports.
#pragma once

#include <cstdint>
#include <string>

namespace nibble::cli {

/// The processor's name; empty where the system does not tell.
std::string cpu_name();
/// Now, as 2026-01-31T12:00:00Z.
std::string utc_time();
/// The largest resident set this process had since the program began or reset_peak_resident(), in bytes.
std::uint64_t peak_resident();
void reset_peak_resident();

}  // namespace nibble::cli
