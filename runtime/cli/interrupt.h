// Ctrl-C, and other signals that end a program, as a question that work asks from time to time. The answer is the
// process's: one guard at a time.
#pragma once

#include <csignal>
#include <initializer_list>
#include <vector>

#include "runtime/cli/commands.h"

namespace nibble::cli {

/// While it lives the signals, of which SIGINT is Ctrl-C, do not end the program; only a third one that nobody has
/// looked after does. One that was ignored before stays so.
class InterruptGuard {
 public:
  explicit InterruptGuard(std::initializer_list<int> signals);
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

 private:
  struct Handled {
    int signal;
    struct sigaction before;
  };
  std::vector<Handled> handled_;
};

/// Whether one of its signals came since the guard began or forget_interrupt() was called.
bool interrupted();
void forget_interrupt();

/// Of a program that ends because of the signal that came: 128 and its number, as shells have it.
ExitCode interrupt_code();

/// Thrown to leave work that a signal has ended and that leaves nothing to show.
struct Interrupted {};

}  // namespace nibble::cli
