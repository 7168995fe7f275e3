// Where the library's own messages go: the host's sink, or nowhere.
#pragma once

#include <string_view>

#include "nibble/log.h"

namespace nibble {

void log(LogLevel level, std::string_view message);

}  // namespace nibble
