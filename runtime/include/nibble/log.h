// The library says nothing by itself. A host that wants to hear it installs a sink.
#pragma once

#include <functional>
#include <string_view>

namespace nibble {

enum class LogLevel { kDebug, kInfo, kWarning };

/// Process-wide; an empty function removes the sink. It is called from any thread, by several at once, perhaps once
/// more while it is replaced. It may call this and use nibble, and must not throw.
void set_log_sink(std::function<void(LogLevel, std::string_view message)> sink);

}  // namespace nibble
