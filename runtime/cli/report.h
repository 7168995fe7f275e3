// What generation says when it ends: its speed and its memory, on standard error or as JSON.
#pragma once

#include <iosfwd>
#include <vector>

#include <nlohmann/json.hpp>

#include "nibble/session.h"
#include "runtime/cli/model.h"

namespace nibble {

/// Lines shaped as llama.cpp's, then the memory ledger.
void print_report(std::ostream& out, const LoadedModel& model);

/// One document: what was asked, what came, how fast, in how much memory.
nlohmann::ordered_json generation_json(const LoadedModel& model, const GenerateOptions& options,
                                       const std::vector<Completion>& completions);

/// On standard output; bytes that are not UTF-8 are replaced.
void print_json(const nlohmann::ordered_json& document);

}  // namespace nibble
