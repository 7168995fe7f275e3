// A model made ready for a command: checked against the memory there is, loaded with a progress bar.
#pragma once

#include "nibble/engine.h"
#include "runtime/cli/options.h"

namespace nibble::cli {

struct Opened {
  MemoryLedger predicted;
  Engine engine;
  Session session;
  double load_seconds;  ///< to open the model and the session
  int context;          ///< of the session
};

/// Throws Error, before loading when it will not fit.
Opened open_model(const ModelArguments& arguments, const SessionOptions& options);

}  // namespace nibble::cli
