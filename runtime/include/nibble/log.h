// The library says nothing by itself. A host that wants to hear it installs a sink.
#pragma once

#include <functional>
#include <string_view>

namespace nibble {

enum class LogLevel { kDebug, kInfo, kWarning };

/// Called from any thread; must not throw. An empty function removes the sink. Process-wide.
void set_log_sink(std::function<void(LogLevel, std::string_view message)> sink);

}  // namespace nibble
