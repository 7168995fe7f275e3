// Rows of results as a person or a program reads them: Markdown, JSON, JSON lines or CSV, printed as they come.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nibble/types.h"
#include "runtime/cli/json.h"

namespace nibble::cli {

enum class ResultFormat { kMarkdown, kJson, kJsonLines, kCsv };
std::optional<ResultFormat> parse_result_format(std::string_view name);

/// As llama-bench says it.
std::string backend_name(Device device);

struct ResultColumn {
  const char* title;
  int width;
  bool left;  ///< where its texts stand
};

class ResultRows {
 public:
  /// `columns` are those of Markdown.
  ResultRows(ResultFormat format, std::vector<ResultColumn> columns) : format_(format), columns_(std::move(columns)) {}

  /// `cells` are a row of Markdown, parallel to the columns, `document` of the others; CSV has what stands alone in it.
  void add(const std::vector<std::string>& cells, const Json& document);
  /// Once, after the last row.
  void finish();

 private:
  ResultFormat format_;
  std::vector<ResultColumn> columns_;
  bool first_ = true;
};

}  // namespace nibble::cli
