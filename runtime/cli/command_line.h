// From arguments to what they ask for. Parsing reads no file, touches no model and prints nothing.
#pragma once

#include <string>
#include <vector>

#include "runtime/cli/commands.h"

namespace nibble::cli {

struct CommandLine {
  Action run;
  bool verbose = false;  ///< -v: the library's messages of every level
};

/// `arguments` without the program's name. Throws UsageError.
CommandLine parse_command_line(std::vector<std::string> arguments);

}  // namespace nibble::cli
