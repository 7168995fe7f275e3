// What every scheme makes of a whole model: sizes and dtypes by class, and the shapes its parameters are stored in.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "nibble/inspect.h"
#include "runtime/cli/json.h"
#include "runtime/cli/options.h"

namespace nibble::cli {

/// A model under one scheme.
struct SchemeReport {
  Scheme scheme;
  MemoryLedger ledger;
  std::vector<ParameterReport> parameters;
};

struct ModelReport {
  std::vector<SchemeReport> schemes;
  SchemeReport listed;  ///< the one whose parameters are shown
};

/// What weights are quantized to: the scheme asked for, or the checkpoint's own, or where that is plain every scheme
/// that has weights of its own.
std::vector<Scheme> shown_schemes(const ModelArguments& arguments);
/// The only one of them, or nf4: what is shown in full.
Scheme shown_scheme(const std::vector<Scheme>& schemes);

/// The scheme asked for, or plain weights beside those schemes. Reads no weights. Throws Error.
ModelReport report_model(const ModelArguments& arguments);

std::string text_of(const ModelReport& report);
Json json_of(const ModelReport& report);

}  // namespace nibble::cli
