#include "runtime/cli/opening.h"

#include <chrono>

#include "runtime/cli/ledger.h"
#include "runtime/cli/render.h"

namespace nibble::cli {

Opened open_model(const ModelArguments& arguments, const SessionOptions& options) {
  const MemoryLedger predicted = predict_fitting_memory(arguments, options);
  ProgressDisplay display("loading", progress_style(ProgressStyle::kNone));
  const auto start = std::chrono::steady_clock::now();
  Engine engine = Engine::open(arguments.model, arguments.load,
                               [&](std::uint64_t done, std::uint64_t total) { display.update(done, total); });
  Session session = engine.session(options);
  const int context = options.context == 0 ? engine.info().context : options.context;
  const std::chrono::duration<double> load_time = std::chrono::steady_clock::now() - start;
  return {predicted, std::move(engine), std::move(session), load_time.count(), context};
}

}  // namespace nibble::cli
