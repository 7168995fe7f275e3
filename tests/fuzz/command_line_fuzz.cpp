// libFuzzer: any bytes as a command line, one argument a line, are parsed or refused with UsageError; nothing is run.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "runtime/cli/command_line.h"
#include "runtime/cli/flags.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::vector<std::string> arguments;
  std::string argument;
  for (std::size_t i = 0; i < size; ++i) {
    if (data[i] == '\n') {
      arguments.push_back(std::move(argument));
      argument.clear();
    } else if (data[i] != 0) {  // a real argument cannot hold one
      argument += static_cast<char>(data[i]);
    }
  }
  arguments.push_back(std::move(argument));
  try {
    nibble::cli::parse_command_line(std::move(arguments));
  } catch (const nibble::cli::UsageError&) {
  }
  return 0;
}
