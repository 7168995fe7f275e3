#include "runtime/cli/interrupt.h"

#include <atomic>

namespace nibble::cli {
namespace {

std::atomic<int> times = 0;  ///< that a signal came
std::atomic<int> last = 0;   ///< the signal that came last
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may touch nothing else");

void on_signal(int signal) {
  last = signal;
  if (++times < 3) return;
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

}  // namespace

InterruptGuard::InterruptGuard(std::initializer_list<int> signals) {
  forget_interrupt();
  for (const int signal : signals) {
    Handled& handled = handled_.emplace_back(Handled{signal, {}});
    sigaction(signal, nullptr, &handled.before);
    if (handled.before.sa_handler == SIG_IGN) continue;
    struct sigaction action = {};
    action.sa_handler = on_signal;  // without SA_RESTART: reading a line ends, too
    sigaction(signal, &action, nullptr);
  }
}

InterruptGuard::~InterruptGuard() {
  for (const Handled& handled : handled_) sigaction(handled.signal, &handled.before, nullptr);
}

bool interrupted() { return times > 0; }

void forget_interrupt() { times = 0; }

ExitCode interrupt_code() { return static_cast<ExitCode>(128 + last); }

}  // namespace nibble::cli
