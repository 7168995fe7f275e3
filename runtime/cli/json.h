// nibble's values as JSON, for --json. Sizes in bytes, times in seconds.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "nibble/engine.h"

namespace nibble::cli {

using Json = nlohmann::ordered_json;

Json model_json(const ModelInfo& info);
Json ledger_json(const MemoryLedger& ledger);
Json stats_json(const GenerateStats& stats);
/// The log-probabilities only where there are some.
Json completion_json(const Completion& completion);

/// One document on standard output, indented. Text that is not UTF-8 has U+FFFD in its place.
void print_json(const Json& document);

}  // namespace nibble::cli
