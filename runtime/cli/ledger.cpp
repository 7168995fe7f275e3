#include "runtime/cli/ledger.h"

#include <ostream>
#include <span>
#include <string>
#include <vector>

#include "runtime/cli/render.h"

namespace nibble {
namespace {

/// Classes, their total and the process, one column for each ledger.
Table ledger_table(std::vector<std::string> header, std::span<const MemoryLedger> ledgers) {
  const auto row = [&](std::string_view name, auto value_of) {
    std::vector<std::string> cells{std::string(name)};
    for (const MemoryLedger& ledger : ledgers) cells.push_back(megabytes(value_of(ledger)));
    return cells;
  };
  Table table;
  table.add(std::move(header));
  table.rule();
  for (int i = 0; i < kMemoryClasses; ++i) {
    const auto memory_class = static_cast<MemoryClass>(i);
    table.add(row(to_string(memory_class), [&](const MemoryLedger& ledger) { return ledger[memory_class]; }));
  }
  table.rule();
  table.add(row("total", [](const MemoryLedger& ledger) { return ledger.total(); }));
  table.add(row("of it weights", [](const MemoryLedger& ledger) { return ledger.weights(); }));
  return table;
}

void print_huggingface(std::ostream& out, const MemoryLedger& ledger) {
  out << "Hugging Face would print " << megabytes(ledger.huggingface) << " MB (parameters and buffers, no "
      << "quantization state)\n";
}

}  // namespace

void print_ledger(std::ostream& out, const MemoryLedger& predicted) {
  ledger_table({"memory [MB]", "predicted"}, {&predicted, 1}).print(out);
  print_huggingface(out, predicted);
}

void print_ledger(std::ostream& out, const MemoryLedger& predicted, const MemoryLedger& measured) {
  const std::vector<MemoryLedger> both{predicted, measured};
  Table table = ledger_table({"memory [MB]", "predicted", "measured"}, both);
  table.add({"process, resident", "", megabytes(measured.process_resident)});
  table.print(out);
  print_huggingface(out, measured);
}

nlohmann::ordered_json ledger_json(const MemoryLedger& ledger) {
  nlohmann::ordered_json classes;
  for (int i = 0; i < kMemoryClasses; ++i) {
    const auto memory_class = static_cast<MemoryClass>(i);
    classes[std::string(to_string(memory_class))] = ledger[memory_class];
  }
  return {{"classes", classes},
          {"weights", ledger.weights()},
          {"total", ledger.total()},
          {"huggingface", ledger.huggingface},
          {"parameters", ledger.parameters},
          {"process_resident", ledger.process_resident}};
}

}  // namespace nibble
