#include "runtime/cli/model_report.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "runtime/cli/render.h"

namespace nibble::cli {
namespace {

SchemeReport report_scheme(const ModelArguments& arguments, Scheme scheme) {
  LoadOptions load = arguments.load;
  load.scheme = scheme;
  return {scheme, predict_memory(arguments.model, load), inspect_model(arguments.model, load)};
}

/// "fp16", or "int8+fp16" where a class has both.
std::string dtypes_of(const SchemeReport& report, MemoryClass memory_class) {
  std::set<std::string> dtypes;
  for (const ParameterReport& parameter : report.parameters) {
    if (parameter.memory_class == memory_class) dtypes.insert(parameter.dtype);
  }
  return fmt::format("{}", fmt::join(dtypes, "+"));
}

/// A row for each class with its dtypes beneath, the true size, and Hugging Face's.
std::string sizes_text(const std::vector<SchemeReport>& reports) {
  std::vector<std::string> header{"size, MB"};
  for (const SchemeReport& report : reports) header.emplace_back(to_string(report.scheme));
  Table table(header);
  const auto add = [&](std::string label, auto&& cell) {
    std::vector<std::string> row{std::move(label)};
    for (const SchemeReport& report : reports) row.push_back(cell(report));
    table.add(std::move(row));
  };
  for (int i = 0; i <= static_cast<int>(MemoryClass::kOther); ++i) {
    const auto memory_class = static_cast<MemoryClass>(i);
    add(std::string(to_string(memory_class)),
        [&](const SchemeReport& report) { return megabytes(report.ledger[memory_class]); });
    if (memory_class == MemoryClass::kQuantState || dtypes_of(reports.front(), memory_class).empty()) continue;
    add("  stored as", [&](const SchemeReport& report) { return dtypes_of(report, memory_class); });
  }
  add("true size", [](const SchemeReport& report) { return megabytes(report.ledger.weights()); });
  add("Hugging Face says", [](const SchemeReport& report) { return megabytes(report.ledger.huggingface); });
  add("  with its state", [](const SchemeReport& report) {
    return megabytes(report.ledger.huggingface + report.ledger[MemoryClass::kQuantState]);
  });
  return table.text();
}

/// "decoder.layers.3.fc1.weight" is number 3 of "decoder.layers.*.fc1.weight"; a name without a number stands alone.
struct Place {
  std::string pattern;
  bool first;  ///< to be listed: not in a layer, or in layer 0
};

Place place_of(const std::string& name) {
  constexpr std::string_view kLayers = "layers.";
  const std::size_t layers = name.find(kLayers);
  if (layers == std::string::npos) return {name, true};
  const std::size_t number = layers + kLayers.size();
  const std::size_t end = name.find('.', number);
  return {name.substr(0, number) + "*" + name.substr(end), name.compare(number, end - number, "0") == 0};
}

std::string parameters_text(const SchemeReport& report) {
  std::map<std::string, int> repeats;
  for (const ParameterReport& parameter : report.parameters) ++repeats[place_of(parameter.name).pattern];
  Table table({fmt::format("parameter under {}", to_string(report.scheme)), "", "in the model", "stored", "dtype",
               "bytes", "state bytes"});
  for (const ParameterReport& parameter : report.parameters) {
    const Place place = place_of(parameter.name);
    if (!place.first) continue;
    const int count = repeats[place.pattern];
    table.add({parameter.name, count > 1 ? fmt::format("x{}", count) : "", shape_text(parameter.shape),
               shape_text(parameter.stored_shape), parameter.dtype, std::to_string(parameter.bytes),
               std::to_string(parameter.quant_state_bytes)});
  }
  return table.text();
}

/// Why a 4-bit weight is a column of bytes, told with a weight of this model.
std::string packing_text(const SchemeReport& report) {
  const auto packed = std::ranges::find_if(
      report.parameters, [](const ParameterReport& parameter) { return parameter.shape != parameter.stored_shape; });
  if (packed == report.parameters.end()) return "";
  return fmt::format(
      "Why {0} is stored as {1}: the weight is laid out row after row, as by bitsandbytes, with two 4-bit codes\n"
      "in each byte, so n values are a column of n/2 bytes and the shape lives in the quantization state, with one\n"
      "scale a block of weights: {2} bytes here, which Hugging Face's figure leaves out.\n",
      shape_text(packed->shape), shape_text(packed->stored_shape), packed->quant_state_bytes);
}

}  // namespace

std::vector<Scheme> shown_schemes(const ModelArguments& arguments) {
  if (arguments.load.scheme) return {*arguments.load.scheme};
  for (const ParameterReport& parameter : inspect_model(arguments.model, arguments.load)) {
    const bool own = parameter.memory_class == MemoryClass::kLinear && parameter.scheme != Scheme::kNone;
    if (own) return {parameter.scheme};
  }
  std::vector<Scheme> schemes(kSchemes.begin() + 1, kSchemes.end());
  std::erase(schemes, Scheme::kInt8Decomp);  // whose weights are those of int8
  return schemes;
}

Scheme shown_scheme(const std::vector<Scheme>& schemes) { return schemes.size() == 1 ? schemes.front() : Scheme::kNf4; }

ModelReport report_model(const ModelArguments& arguments) {
  std::vector<Scheme> schemes = shown_schemes(arguments);
  const Scheme listed = shown_scheme(schemes);
  if (!arguments.load.scheme) schemes.insert(schemes.begin(), Scheme::kNone);
  ModelReport report;
  for (const Scheme scheme : schemes) {
    report.schemes.push_back(report_scheme(arguments, scheme));
    if (scheme == listed) report.listed = report.schemes.back();
  }
  return report;
}

std::string text_of(const ModelReport& report) {
  return sizes_text(report.schemes) + "\n" + parameters_text(report.listed) + "\n" + packing_text(report.listed);
}

Json json_of(const ModelReport& report) {
  Json document;
  for (const SchemeReport& scheme : report.schemes) {
    Json parameters = Json::array();
    for (const ParameterReport& p : scheme.parameters) {
      parameters.push_back({{"name", p.name},
                            {"class", to_string(p.memory_class)},
                            {"dtype", p.dtype},
                            {"shape", p.shape},
                            {"stored_shape", p.stored_shape},
                            {"bytes", p.bytes},
                            {"quant_state_bytes", p.quant_state_bytes}});
    }
    document["schemes"].push_back(
        {{"scheme", to_string(scheme.scheme)}, {"memory", ledger_json(scheme.ledger)}, {"parameters", parameters}});
  }
  return document;
}

}  // namespace nibble::cli
