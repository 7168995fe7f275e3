#include "runtime/cli/ledger.h"

#include <spdlog/fmt/fmt.h>

#include <array>
#include <span>

#include "nibble/error.h"
#include "runtime/cli/render.h"

namespace nibble::cli {
namespace {

struct Column {
  const char* title;
  MemoryLedger ledger;
  std::uint64_t process;  ///< the whole resident set
};

std::string text_of(std::span<const Column> columns) {
  std::vector<std::string> header{"memory, MB"};
  for (const Column& column : columns) header.emplace_back(column.title);
  Table table(header);
  const auto add = [&](std::string label, auto&& bytes) {
    std::vector<std::string> row{std::move(label)};
    for (const Column& column : columns) row.push_back(megabytes(bytes(column)));
    table.add(std::move(row));
  };
  for (int i = 0; i < kMemoryClasses; ++i) {
    const auto memory_class = static_cast<MemoryClass>(i);
    add(std::string(to_string(memory_class)), [&](const Column& column) { return column.ledger[memory_class]; });
    if (memory_class == MemoryClass::kOther) {
      add("= weights", [](const Column& column) { return column.ledger.weights(); });
    }
  }
  add("= total", [](const Column& column) { return column.ledger.total(); });
  add("process, resident", [](const Column& column) { return column.process; });
  const MemoryLedger& last = columns.back().ledger;
  const std::string overhead = last.device_overhead == 0
                                   ? ""
                                   : fmt::format(
                                         "The GPU holds {} MB beside that: CUDA's context and kernels, and other "
                                         "processes\n",
                                         megabytes(last.device_overhead));
  return table.text() + overhead +
         fmt::format(
             "Hugging Face would print {} MB (parameters and buffers); with the quantization state it leaves out "
             "that is {} MB\n",
             megabytes(last.huggingface), megabytes(last.huggingface + last[MemoryClass::kQuantState]));
}

/// What the process will be: what it is before loading and all that is loaded.
Column predicted_column(const MemoryLedger& ledger) {
  return {"predicted", ledger, ledger.process_resident + ledger.total()};
}

}  // namespace

MemoryLedger predict_fitting_memory(const ModelArguments& arguments, const SessionOptions& session) {
  MemoryLedger ledger = predict_memory(arguments.model, arguments.load, session);
  const std::uint64_t available = available_memory(arguments.load.device);
  if (ledger.total() > available) {
    const std::uint64_t cache = ledger[MemoryClass::kKvCache];
    throw Error(ErrorKind::kOutOfMemory,
                fmt::format("{} needs {} MB ({} MB of weights, {} MB of cache), but the {} has {} MB left",
                            arguments.model, megabytes(ledger.total()), megabytes(ledger.weights()), megabytes(cache),
                            to_string(arguments.load.device), megabytes(available)));
  }
  return ledger;
}

std::string ledger_text(const MemoryLedger& predicted) {
  const std::array columns{predicted_column(predicted)};
  return text_of(columns);
}

std::string ledger_text(const MemoryLedger& predicted, const MemoryLedger& measured) {
  const std::array columns{predicted_column(predicted), Column{"measured", measured, measured.process_resident}};
  return text_of(columns);
}

}  // namespace nibble::cli
