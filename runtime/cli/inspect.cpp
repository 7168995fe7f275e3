// nibble inspect: what each scheme makes of a checkpoint, or of one of its weights.
#include "nibble/inspect.h"

#include <algorithm>
#include <cmath>
#include <iostream>
#include <map>
#include <memory>
#include <set>

#include "nibble/memory.h"
#include "runtime/cli/commands.h"
#include "runtime/cli/ledger.h"
#include "runtime/cli/options.h"
#include "runtime/cli/render.h"
#include "runtime/cli/report.h"

namespace nibble {
namespace {

using Json = nlohmann::ordered_json;

struct InspectFlags {
  ModelFlags model;
  std::string tensor;
  bool json = false;
};

/// A checkpoint under one scheme.
struct View {
  Scheme scheme;
  std::vector<ParameterReport> parameters;
  MemoryLedger ledger;
};

View view_as(const ModelFlags& flags, Scheme scheme) {
  LoadOptions load = flags.load;
  load.scheme = scheme;
  return {scheme, inspect_model(flags.model, load), predict_memory(flags.model, load)};
}

/// The scheme asked for; or the one the checkpoint is already quantized in; or all of them.
std::vector<Scheme> schemes_to_show(const ModelFlags& flags) {
  if (flags.load.scheme) return {*flags.load.scheme};
  for (const ParameterReport& parameter : inspect_model(flags.model, flags.load)) {
    const bool quantized = parameter.memory_class == MemoryClass::kLinear && parameter.quant_state_bytes > 0;
    if (quantized) return {inspect_tensor(flags.model, parameter.name, flags.load).scheme};
  }
  return {Scheme::kNone, Scheme::kInt8, Scheme::kFp4, Scheme::kNf4, Scheme::kFp4Dq, Scheme::kNf4Dq};
}

// Classes of memory under each scheme.

constexpr MemoryClass kLastWeightClass = MemoryClass::kOther;

/// "604.0 fp16": size and element types of one class.
std::string class_cell(const View& view, MemoryClass memory_class) {
  std::set<std::string> dtypes;
  for (const ParameterReport& parameter : view.parameters) {
    if (parameter.memory_class == memory_class) dtypes.insert(parameter.dtype);
  }
  std::string cell = megabytes(view.ledger[memory_class]);
  for (const std::string& dtype : dtypes) cell += ' ' + dtype;
  return cell;
}

void print_classes(const std::vector<View>& views) {
  const auto row = [&](std::string_view name, auto cell_of) {
    std::vector<std::string> cells{std::string(name)};
    for (const View& view : views) cells.emplace_back(cell_of(view));
    return cells;
  };
  Table table;
  table.add(row("weights [MB]", [](const View& view) { return to_string(view.scheme); }));
  table.rule();
  for (int i = 0; i <= static_cast<int>(kLastWeightClass); ++i) {
    const auto memory_class = static_cast<MemoryClass>(i);
    table.add(row(to_string(memory_class), [&](const View& view) { return class_cell(view, memory_class); }));
  }
  table.rule();
  table.add(row("true total", [](const View& view) { return megabytes(view.ledger.weights()); }));
  table.add(row("Hugging Face says", [](const View& view) { return megabytes(view.ledger.huggingface); }));
  table.print(std::cout);
}

// The list of parameters, layers that repeat shown once.

/// The parameter's name in layer 0, if it is a layer's.
std::string name_in_first_layer(const std::string& name) {
  constexpr std::string_view kLayers = ".layers.";
  const std::size_t at = name.find(kLayers);
  if (at == std::string::npos) return name;
  const std::size_t digits = at + kLayers.size();
  return name.substr(0, digits) + "0" + name.substr(name.find('.', digits));
}

void print_parameters(const View& view) {
  std::map<std::string, int> repeats;
  for (const ParameterReport& p : view.parameters) ++repeats[name_in_first_layer(p.name)];
  Table table;
  table.add({"parameter", "", "shape", "stored as", "dtype", "bytes", "state bytes"});
  table.rule();
  bool packed = false;
  for (const ParameterReport& p : view.parameters) {
    if (name_in_first_layer(p.name) != p.name) continue;
    const int times = repeats.at(p.name);
    table.add({p.name, times > 1 ? "x" + std::to_string(times) : "", shape_text(p.shape), shape_text(p.stored_shape),
               p.dtype, std::to_string(p.bytes), std::to_string(p.quant_state_bytes)});
    packed = packed || p.dtype == "uint8";
  }
  std::cout << "\nParameters under " << to_string(view.scheme) << ":\n";
  table.print(std::cout);
  if (!packed) return;
  std::cout << "A 4-bit weight of n values has the shape [n/2, 1] because it is flattened, and each byte holds the codes "
               "of two neighbours.\n";
}

void print_model(const std::vector<View>& views) {
  print_classes(views);
  // Where all schemes are shown, nf4 stands for them: the others differ from it or from the model in nothing new.
  const auto nf4 = std::ranges::find(views, Scheme::kNf4, &View::scheme);
  print_parameters(nf4 == views.end() ? views.front() : *nf4);
}

Json view_json(const View& view) {
  Json parameters = Json::array();
  for (const ParameterReport& p : view.parameters) {
    parameters.push_back({{"name", p.name},
                          {"class", to_string(p.memory_class)},
                          {"dtype", p.dtype},
                          {"shape", p.shape},
                          {"stored_shape", p.stored_shape},
                          {"bytes", p.bytes},
                          {"quant_state_bytes", p.quant_state_bytes}});
  }
  return {{"scheme", to_string(view.scheme)}, {"memory", ledger_json(view.ledger)}, {"parameters", parameters}};
}

// One weight.

template <class Values, class Show>
std::vector<std::string> row_of(std::string_view name, const Values& values, Show show) {
  std::vector<std::string> cells{std::string(name)};
  for (const auto value : values) cells.push_back(show(value));
  return cells;
}

void print_histogram(const TensorReport& report) {
  constexpr std::size_t kMostRows = 32;
  constexpr int kWidth = 50;
  const std::size_t levels = report.levels.size();
  const std::size_t group = (levels + kMostRows - 1) / kMostRows;  // levels a row
  std::vector<std::uint64_t> counts((levels + group - 1) / group);
  for (std::size_t i = 0; i < levels; ++i) counts[i / group] += report.histogram[i];
  const auto most = static_cast<double>(std::max<std::uint64_t>(1, *std::ranges::max_element(counts)));
  std::cout << "\nWeights at each level (before its absmax)" << (group > 1 ? ", from the level shown on" : "") << ":\n";
  Table table;
  std::vector<std::string> bars;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    table.add({"", fixed(static_cast<double>(report.levels[i * group]), 4), std::to_string(counts[i])});
    bars.push_back(bar(static_cast<double>(counts[i]) / most, kWidth));
  }
  table.print(std::cout, bars);
}

void print_tensor(const TensorReport& report) {
  const auto number = [](float value) { return fixed(static_cast<double>(value), 8); };
  std::cout << report.name << ", " << shape_text(report.shape) << " stored as " << shape_text(report.stored_shape)
            << " under " << to_string(report.scheme);
  if (report.blocksize > 0) std::cout << ", " << report.blocksize << " weights an absmax";
  std::cout << "\n\n";
  const auto integer = [](int value) { return std::to_string(value); };
  Table table;
  table.add(row_of("before", report.first_values, number));
  table.add(row_of("after", report.first_decoded, number));
  if (!report.levels.empty()) {
    table.add(row_of("codes", report.first_codes, integer));
    table.add(row_of("bytes", report.first_bytes, integer));
  }
  table.print(std::cout);
  std::cout << "\nlargest error " << report.max_error << ", RMS error " << report.rms_error << ", signal to noise "
            << fixed(report.snr_db, 2) << " dB\n";
  if (!report.levels.empty()) print_histogram(report);
}

Json tensor_json(const TensorReport& report) {
  return {{"name", report.name},
          {"scheme", to_string(report.scheme)},
          {"blocksize", report.blocksize},
          {"shape", report.shape},
          {"stored_shape", report.stored_shape},
          {"first_values", report.first_values},
          {"first_codes", report.first_codes},
          {"first_bytes", report.first_bytes},
          {"first_decoded", report.first_decoded},
          {"max_error", report.max_error},
          {"rms_error", report.rms_error},
          {"snr_db", report.snr_db},
          {"levels", report.levels},
          {"histogram", report.histogram}};
}

int run(const InspectFlags& flags) {
  if (!flags.tensor.empty()) {
    const TensorReport report = inspect_tensor(flags.model.model, flags.tensor, flags.model.load);
    if (flags.json) print_json(tensor_json(report));
    else print_tensor(report);
    return 0;
  }
  std::vector<View> views;
  for (const Scheme scheme : schemes_to_show(flags.model)) views.push_back(view_as(flags.model, scheme));
  if (flags.json) {
    Json document = {{"model", flags.model.model}, {"schemes", Json::array()}};
    for (const View& view : views) document["schemes"].push_back(view_json(view));
    print_json(document);
  } else {
    print_model(views);
  }
  return 0;
}

}  // namespace

Action setup_inspect(CLI::App& app) {
  auto flags = std::make_shared<InspectFlags>();
  add_model_flags(app, flags->model);
  app.add_option("--tensor", flags->tensor, "Show this weight before and after, its codes, errors and histogram")
      ->type_name("NAME");
  app.add_flag("--json", flags->json, "Print one JSON document; sizes in bytes");
  return [flags] { return run(*flags); };
}

}  // namespace nibble
