#include "runtime/cli/model.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include "runtime/cli/render.h"

namespace nibble {
namespace {

spdlog::level::level_enum spdlog_level(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug: return spdlog::level::debug;
    case LogLevel::kInfo: return spdlog::level::info;
    case LogLevel::kWarning: break;
  }
  return spdlog::level::warn;
}

void listen(bool verbose) {
  auto logger = std::make_shared<spdlog::logger>("nibble", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
  logger->set_pattern("nibble: %^%l%$: %v");
  logger->set_level(verbose ? spdlog::level::debug : spdlog::level::warn);
  set_log_sink([logger](LogLevel level, std::string_view message) { logger->log(spdlog_level(level), message); });
}

void require_room(const std::string& model, std::uint64_t needed, Device device) {
  const std::uint64_t available = available_memory(device);
  if (needed <= available) return;
  throw Error(ErrorKind::kOutOfMemory, model + ": needs " + megabytes(needed) + " MB in all, but " +
                                           std::string(to_string(device)) + " has " + megabytes(available) +
                                           " MB left (--dry-run shows what takes it)");
}

}  // namespace

LoadedModel load_model(const ModelFlags& flags, const SessionOptions& session) {
  listen(flags.verbose);
  const MemoryLedger predicted = predict_memory(flags.model, flags.load, session);
  require_room(flags.model, predicted.total(), flags.load.device);
  Engine engine = Engine::open(flags.model, flags.load, progress_bar("loading"));
  Session opened = engine.session(session);
  const int context = session.context == 0 ? engine.info().context : session.context;
  return {context, predicted, std::move(engine), std::move(opened)};
}

}  // namespace nibble
