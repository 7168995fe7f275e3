// What an Engine is made of.
#pragma once

#include <memory>

#include "models/opt.h"
#include "nibble/engine.h"
#include "tokenizer/tokenizer.h"

namespace nibble {

struct Engine::Impl {
  ModelInfo info;
  OptModel model;
  GenerationConfig generation;
  std::unique_ptr<Tokenizer> tokenizer;  ///< nullptr when the checkpoint has none
  LoadOptions options;

  /// Throws Error{kUnsupported} when there is none.
  const Tokenizer& require_tokenizer() const;
};

}  // namespace nibble
