// nibble inspect: what quantization does to a checkpoint, or to one of its weights, without running it.
#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "runtime/cli/commands.h"
#include "runtime/cli/model_report.h"
#include "runtime/cli/page.h"
#include "runtime/cli/render.h"
#include "runtime/cli/tensor_report.h"

namespace nibble::cli {
namespace {

struct InspectArguments {
  ModelArguments model;
  std::string tensor;  ///< empty: the whole model
  std::string page;    ///< file to write instead; empty: none
  bool json = false;
};

void declare(CLI::App& app, InspectArguments& a) {
  add_model_flags(app, a.model);
  app.add_option("--tensor", a.tensor, "Show this weight's values, errors and histogram, as decoder.layers.0.fc1")
      ->type_name("NAME")
      ->take_last();
  CLI::Option* json = app.add_flag("--json", a.json, "Print one JSON document, sizes in bytes");
  app.add_option("--html", a.page,
                 "Write a page that a browser shows without a network: memory, error by layer, and the weights of "
                 "--tensor (default: the first layer's fc1) over the levels")
      ->type_name("FILE")
      ->take_last()
      ->excludes(json);
  app.footer("Without --scheme it compares all that the checkpoint can be loaded as.");
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

/// The linear weights' names, and `shown` where it is none of them.
std::vector<std::string> page_weights(const std::vector<ParameterReport>& parameters, const std::string& shown) {
  std::vector<std::string> names;
  for (const ParameterReport& parameter : parameters) {
    if (parameter.memory_class == MemoryClass::kLinear) names.push_back(parameter.name);
  }
  if (std::ranges::find(names, shown) == names.end()) names.push_back(shown);
  return names;
}

ExitCode write_page(const InspectArguments& a) {
  const ModelReport sizes = report_model(a.model);
  const std::vector<Scheme> schemes = shown_schemes(a.model);
  LoadOptions load = a.model.load;
  load.scheme = shown_scheme(schemes);
  const std::string shown =
      inspect_tensor(a.model.model, a.tensor.empty() ? "decoder.layers.0.fc1" : a.tensor, load).name;
  const std::vector<std::string> names = page_weights(sizes.listed.parameters, shown);
  std::vector<SchemeWeights> quantized;
  {
    ProgressDisplay display("quantizing", progress_style(ProgressStyle::kNone));
    std::uint64_t done = 0;
    for (const Scheme scheme : schemes) {
      load.scheme = scheme;
      SchemeWeights& weights = quantized.emplace_back(SchemeWeights{scheme, {}});
      for (const std::string& name : names) {
        weights.weights.push_back(inspect_tensor(a.model.model, name, load));
        display.update(++done, schemes.size() * names.size());
      }
    }
  }
  save_file(a.page, html_page(a.model.model, sizes, quantized, shown));
  print(fmt::format("{}: {} weights under {} schemes\n", a.page, names.size(), schemes.size()));
  return kSuccess;
}

ExitCode inspect(const InspectArguments& a) {
  if (!a.page.empty()) return write_page(a);
  if (a.tensor.empty()) return show(report_model(a.model), a.json);
  LoadOptions load = a.model.load;
  load.scheme = shown_scheme(shown_schemes(a.model));
  return show(inspect_tensor(a.model.model, a.tensor, load), a.json);
}

}  // namespace

Action declare_inspect(CLI::App& app) {
  const auto arguments = std::make_shared<InspectArguments>();
  declare(app, *arguments);
  return [arguments] { return inspect(*arguments); };
}

}  // namespace nibble::cli
