#include "runtime/cli/host.h"

#include <array>
#include <ctime>
#include <fstream>
#include <string_view>

namespace nibble::cli {
namespace {

/// What stands behind "key", blanks and a colon in the first line of a /proc file that begins so; empty without one.
std::string proc_line(const char* file, std::string_view key) {
  std::ifstream stream(file);
  std::string line;
  while (std::getline(stream, line)) {
    if (!line.starts_with(key)) continue;
    const std::size_t value = line.find_first_not_of(" \t", line.find(':') + 1);
    return value == std::string::npos ? "" : line.substr(value);
  }
  return "";
}

}  // namespace

std::string cpu_name() { return proc_line("/proc/cpuinfo", "model name"); }

std::string utc_time() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  std::array<char, 32> text{};
  return {text.data(), std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &utc)};
}

std::uint64_t peak_resident() {
  const std::string kilobytes = proc_line("/proc/self/status", "VmHWM");
  return kilobytes.empty() ? 0 : std::stoull(kilobytes) * 1024;
}

void reset_peak_resident() { std::ofstream("/proc/self/clear_refs") << "5"; }

}  // namespace nibble::cli
