#include "runtime/log.h"

#include <mutex>
#include <utility>

namespace nibble {
namespace {

std::mutex& sink_mutex() {
  static std::mutex mutex;
  return mutex;
}

std::function<void(LogLevel, std::string_view)>& sink() {
  static std::function<void(LogLevel, std::string_view)> function;
  return function;
}

}  // namespace

void set_log_sink(std::function<void(LogLevel, std::string_view)> new_sink) {
  const std::lock_guard lock(sink_mutex());
  sink() = std::move(new_sink);
}

void log(LogLevel level, std::string_view message) {
  const std::lock_guard lock(sink_mutex());
  if (sink()) sink()(level, message);
}

}  // namespace nibble
