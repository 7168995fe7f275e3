// From flags to a model that is ready to run.
#pragma once

#include "nibble/nibble.h"
#include "runtime/cli/options.h"

namespace nibble {

struct LoadedModel {
  int context;  ///< most tokens a sequence may have
  MemoryLedger predicted;
  Engine engine;
  Session session;
};

/// Throws Error{kOutOfMemory} before anything is loaded when it will not fit. What the library has to say goes to
/// standard error from here on: warnings, and the rest when the flags say verbose.
LoadedModel load_model(const ModelFlags& flags, const SessionOptions& session);

}  // namespace nibble
