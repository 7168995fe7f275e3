// Ctrl-C as a question that work asks from time to time. The flag is the process's: one guard at a time.
#pragma once

#include <csignal>

namespace nibble::cli {

/// While it lives Ctrl-C does not end the program; only a third one that nobody has looked after does.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

 private:
  struct sigaction before_;
};

/// Whether Ctrl-C was pressed since the guard began or forget_interrupt() was called.
bool interrupted();
void forget_interrupt();

/// Thrown to leave work that Ctrl-C has ended and that leaves nothing to show.
struct Interrupted {};

}  // namespace nibble::cli
