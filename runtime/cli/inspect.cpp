// nibble inspect: what quantization does to a checkpoint, or to one of its weights, without running it.
#include <memory>
#include <nlohmann/json.hpp>

#include "runtime/cli/commands.h"
#include "runtime/cli/model_report.h"
#include "runtime/cli/render.h"
#include "runtime/cli/tensor_report.h"

namespace nibble::cli {
namespace {

struct InspectArguments {
  ModelArguments model;
  std::string tensor;  ///< empty: the whole model
  bool json = false;
};

void declare(CLI::App& app, InspectArguments& a) {
  add_model_flags(app, a.model);
  app.add_option("--tensor", a.tensor, "Show this weight's values, errors and histogram, as decoder.layers.0.fc1")
      ->type_name("NAME")
      ->take_last();
  app.add_flag("--json", a.json, "Print one JSON document, sizes in bytes");
  app.footer("Without --scheme it compares all of them.");
}

template <class Report>
ExitCode show(const Report& report, bool json) {
  if (json) {
    print_json(json_of(report));
  } else {
    print(text_of(report));
  }
  return kSuccess;
}

ExitCode inspect(const InspectArguments& a) {
  if (a.tensor.empty()) return show(report_model(a.model), a.json);
  LoadOptions load = a.model.load;
  load.scheme = shown_scheme(a.model);
  return show(inspect_tensor(a.model.model, a.tensor, load), a.json);
}

}  // namespace

Action declare_inspect(CLI::App& app) {
  const auto arguments = std::make_shared<InspectArguments>();
  declare(app, *arguments);
  return [arguments] { return inspect(*arguments); };
}

}  // namespace nibble::cli
