// The interactive session: one running text that grows by what is typed and by what the model goes on with.
#pragma once

#include "runtime/cli/opening.h"

namespace nibble::cli {

/// Until the user leaves. Standard input must be a terminal and the model have a tokenizer. Throws Error when the
/// terminal fails; what the model refuses is shown, and the session goes on.
void run_repl(Opened& model, GenerateOptions options);

}  // namespace nibble::cli
