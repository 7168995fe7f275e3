// The program: parse, run, and turn what goes wrong into one sentence and an exit code.
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <clocale>
#include <csignal>
#include <new>

#include "nibble/log.h"
#include "runtime/cli/command_line.h"
#include "runtime/cli/flags.h"
#include "runtime/cli/interrupt.h"
#include "runtime/cli/render.h"

namespace nibble::cli {
namespace {

spdlog::level::level_enum spdlog_level(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      break;
  }
  return spdlog::level::warn;
}

void install_log(bool verbose) {
  const auto logger = spdlog::stderr_color_mt("nibble");
  logger->set_pattern("%^%l%$: %v");
  logger->set_level(verbose ? spdlog::level::debug : spdlog::level::warn);
  set_log_sink([logger](LogLevel level, std::string_view message) { logger->log(spdlog_level(level), message); });
}

ExitCode complain(std::string_view sentence, ExitCode code) {
  note(fmt::format("nibble: {}\n", sentence));
  return code;
}

ExitCode run(int argc, char** argv) {
  try {
    const CommandLine line = parse_command_line({argv + std::min(argc, 1), argv + argc});
    install_log(line.verbose);
    return line.run();
  } catch (const UsageError& error) {
    return complain(error.what(), kUsage);
  } catch (const Interrupted&) {
    return complain("interrupted", interrupt_code());
  } catch (const std::bad_alloc&) {
    return complain("out of memory", kFailure);
  } catch (const std::exception& error) {
    return complain(error.what(), kFailure);
  }
}

}  // namespace
}  // namespace nibble::cli

int main(int argc, char** argv) {
  std::setlocale(LC_CTYPE, "");
  std::signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is a failed write, so that it is said and tidied up
  return nibble::cli::run(argc, argv);
}
