// The interactive session: what is typed is appended to one running text, which the model continues.
#pragma once

#include "runtime/cli/model.h"

namespace nibble {

/// Reads standard input, a terminal, until it ends. Returns the exit status.
int run_repl(LoadedModel& model, const GenerateOptions& options);

}  // namespace nibble
