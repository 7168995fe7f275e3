// The memory ledger as a person reads it, and the question it answers before anything is loaded.
#pragma once

#include <optional>
#include <string>

#include "nibble/memory.h"
#include "nibble/session.h"
#include "runtime/cli/options.h"

namespace nibble::cli {

/// The ledger predicted for such a load. Throws Error{kOutOfMemory} when the device does not have that much left.
MemoryLedger predict_fitting_memory(const ModelArguments& arguments, const SessionOptions& session);

/// Predicted figures alone, then beside measured ones. In MB, by class.
std::string ledger_text(const MemoryLedger& predicted);
std::string ledger_text(const MemoryLedger& predicted, const MemoryLedger& measured);

}  // namespace nibble::cli
