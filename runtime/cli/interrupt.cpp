#include "runtime/cli/interrupt.h"

#include <atomic>

namespace nibble::cli {
namespace {

std::atomic<int> presses = 0;
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may touch nothing else");

void on_interrupt(int) {
  if (++presses < 3) return;
  std::signal(SIGINT, SIG_DFL);
  std::raise(SIGINT);
}

}  // namespace

InterruptGuard::InterruptGuard() {
  presses = 0;
  struct sigaction action = {};
  action.sa_handler = on_interrupt;  // without SA_RESTART: reading a line ends, too
  sigaction(SIGINT, &action, &before_);
}

InterruptGuard::~InterruptGuard() { sigaction(SIGINT, &before_, nullptr); }

bool interrupted() { return presses > 0; }

void forget_interrupt() { presses = 0; }

}  // namespace nibble::cli
