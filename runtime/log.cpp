#include "runtime/log.h"

#include <functional>
#include <memory>
#include <mutex>
#include <utility>

namespace nibble {
namespace {

using Sink = std::function<void(LogLevel, std::string_view)>;

/// The sink that is installed. Whoever calls it holds it, and no lock: a sink may log and install another.
class CurrentSink {
 public:
  void set(std::shared_ptr<const Sink> sink) {
    const std::lock_guard lock(mutex_);
    sink_.swap(sink);  // the old one goes after the lock
  }
  std::shared_ptr<const Sink> get() const {
    const std::lock_guard lock(mutex_);
    return sink_;
  }

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<const Sink> sink_;  ///< nullptr for none
};

CurrentSink& current_sink() {
  static CurrentSink sink;
  return sink;
}

}  // namespace

void set_log_sink(Sink sink) { current_sink().set(sink ? std::make_shared<const Sink>(std::move(sink)) : nullptr); }

void log(LogLevel level, std::string_view message) {
  if (const auto sink = current_sink().get()) (*sink)(level, message);
}

}  // namespace nibble
