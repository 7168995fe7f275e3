// Which cores the threads of this process may run on.
#pragma once

#include <sched.h>

#include <algorithm>
#include <filesystem>
#include <string>

namespace nibble {

/// Cores that a thread may run on; 0 is the caller. None once it has ended.
inline int cores_of(int thread) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  return ::sched_getaffinity(thread, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 0;
}

/// Threads of this process that are kept on one core.
inline long pinned_threads() {
  const std::filesystem::directory_iterator threads("/proc/self/task");
  return std::ranges::count_if(
      threads, [](const auto& thread) { return cores_of(std::stoi(thread.path().filename().string())) == 1; });
}

}  // namespace nibble
