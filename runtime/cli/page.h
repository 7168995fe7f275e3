// What quantization does to a model as one HTML page that needs nothing else: pictures are SVG inside it.
#pragma once

#include <string>
#include <vector>

#include "nibble/inspect.h"
#include "runtime/cli/model_report.h"

namespace nibble::cli {

/// One scheme's linear weights, as inspect_tensor describes them.
struct SchemeWeights {
  Scheme scheme;
  std::vector<TensorReport> weights;
};

/// Sizes of every scheme, errors by layer, and the histogram of the weight named `shown` under each scheme.
std::string html_page(const std::string& model, const ModelReport& sizes, const std::vector<SchemeWeights>& schemes,
                      const std::string& shown);

}  // namespace nibble::cli
