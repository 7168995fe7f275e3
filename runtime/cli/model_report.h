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

/// The scheme to show where none is asked for: the checkpoint's own where it is quantized, else nf4.
Scheme shown_scheme(const ModelArguments& arguments);

/// The scheme asked for, or every one that the checkpoint can be loaded as. From configuration and headers alone.
/// Throws Error.
ModelReport report_model(const ModelArguments& arguments);

std::string text_of(const ModelReport& report);
Json json_of(const ModelReport& report);

}  // namespace nibble::cli
