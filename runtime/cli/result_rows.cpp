#include "runtime/cli/result_rows.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "runtime/cli/render.h"

namespace nibble::cli {
namespace {

/// Of numbers and texts; a text in quotes, a quote in it doubled.
std::string csv_cell(const Json& value) {
  if (value.is_null()) return "";
  if (!value.is_string()) return value.dump();
  std::string quoted = "\"";
  for (const char c : value.get<std::string>()) quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + "\"";
}

/// The values that stand alone, each with its name.
Json flat(const Json& document) {
  Json result = Json::object();
  for (const auto& [key, value] : document.items()) {
    if (value.is_primitive()) result[key] = value;
  }
  return result;
}

std::string csv_row(const Json& values) {
  std::vector<std::string> cells;
  for (const Json& value : values) cells.push_back(csv_cell(value));
  return fmt::format("{}\n", fmt::join(cells, ","));
}

std::string padded(const std::string& text, const ResultColumn& column) {
  const auto taken = std::ranges::count_if(text, [](char c) { return (c & 0xc0) != 0x80; });
  const std::string space(static_cast<std::size_t>(std::max<std::ptrdiff_t>(0, column.width - taken)), ' ');
  return column.left ? text + space : space + text;
}

std::string markdown_header(std::span<const ResultColumn> columns) {
  std::string titles = "|";
  std::string rule = "|";
  for (const ResultColumn& column : columns) {
    titles += " " + padded(column.title, column) + " |";
    rule += " " + std::string(static_cast<std::size_t>(column.width - 1), '-') + (column.left ? "-" : ":") + " |";
  }
  return titles + "\n" + rule + "\n";
}

std::string markdown_row(std::span<const ResultColumn> columns, std::span<const std::string> cells) {
  std::string row = "|";
  for (std::size_t i = 0; i < columns.size(); ++i) row += " " + padded(cells[i], columns[i]) + " |";
  return row + "\n";
}

}  // namespace

std::optional<ResultFormat> parse_result_format(std::string_view name) {
  if (name == "md") return ResultFormat::kMarkdown;
  if (name == "json") return ResultFormat::kJson;
  if (name == "jsonl") return ResultFormat::kJsonLines;
  if (name == "csv") return ResultFormat::kCsv;
  return std::nullopt;
}

std::string backend_name(Device device) { return device == Device::kCpu ? "CPU" : "CUDA"; }

void ResultRows::add(const std::vector<std::string>& cells, const Json& document) {
  std::string text;
  switch (format_) {
    case ResultFormat::kMarkdown:
      if (first_) text += markdown_header(columns_);
      text += markdown_row(columns_, cells);
      break;
    case ResultFormat::kJson:
      text = (first_ ? "[\n" : ",\n") + json_text(document, 2);
      break;
    case ResultFormat::kJsonLines:
      text = json_text(document) + "\n";
      break;
    case ResultFormat::kCsv: {
      const Json values = flat(document);
      if (first_) {
        std::vector<std::string> keys;
        for (const auto& item : values.items()) keys.push_back(item.key());
        text += fmt::format("{}\n", fmt::join(keys, ","));
      }
      text += csv_row(values);
      break;
    }
  }
  first_ = false;
  print(text);
}

void ResultRows::finish() {
  if (format_ == ResultFormat::kJson) print(first_ ? "[]\n" : "\n]\n");
}

}  // namespace nibble::cli
