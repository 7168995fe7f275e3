// One weight under a scheme: its first values before and after, what it lost, and a histogram over the scheme's levels.
#pragma once

#include <string>

#include "nibble/inspect.h"
#include "runtime/cli/json.h"

namespace nibble::cli {

std::string text_of(const TensorReport& report);
Json json_of(const TensorReport& report);

}  // namespace nibble::cli
