// The memory ledger as a table and as JSON.
#pragma once

#include <iosfwd>

#include <nlohmann/json.hpp>

#include "nibble/memory.h"

namespace nibble {

/// Predicted figures alone: nothing has been loaded.
void print_ledger(std::ostream& out, const MemoryLedger& predicted);
void print_ledger(std::ostream& out, const MemoryLedger& predicted, const MemoryLedger& measured);

nlohmann::ordered_json ledger_json(const MemoryLedger& ledger);

}  // namespace nibble
