// nibble's values as JSON, for --json. Sizes in bytes, times in seconds.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "nibble/engine.h"

namespace nibble::cli {

using Json = nlohmann::ordered_json;

Json model_json(const ModelInfo& info);
Json ledger_json(const MemoryLedger& ledger);
Json stats_json(const GenerateStats& stats);
/// The log-probabilities only where there are some.
Json completion_json(const Completion& completion);

/// The document on one line, or indented by so many spaces. Text that is not UTF-8 has U+FFFD in its place.
std::string json_text(const Json& document, int indent = -1);
/// One document on standard output, indented.
void print_json(const Json& document);

}  // namespace nibble::cli
