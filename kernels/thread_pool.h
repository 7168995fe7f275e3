// Threads that stay, for work cut into tasks. The caller works too; between jobs the others spin for some microseconds
// and then sleep, so an idle pool costs nothing. One thread may call `run` at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace nibble {

/// The number of threads meant by an option: itself, or one a core for 0. Throws Error{kInvalidArgument} when negative
/// or beyond 1024.
int resolve_threads(int threads);

class ThreadPool {
 public:
  /// `threads` counts the caller; 0 means one a core. Throws Error{kOutOfMemory} when the system starts fewer.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  /// Keeps every worker on a core of its own, of those the process may use the second and following; the first is left
  /// for the caller, whose own affinity is its own affair. Throws Error{kInvalidArgument} when there are fewer cores
  /// than threads.
  void pin();

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls f(task), or f(task, thread) with 0 <= thread < threads(), for every task in [0, tasks); returns when all are
  /// done. Tasks are handed out in order to whoever is free. Throws what the first task that failed threw; the tasks
  /// not yet begun are then skipped.
  template <class F>
  void run(int tasks, F&& f) {
    using Function = std::remove_reference_t<F>;
    const auto call = [](const void* function, int task, int thread) {
      Function& callee = *const_cast<Function*>(static_cast<const Function*>(function));
      if constexpr (std::is_invocable_v<Function&, int, int>) {
        callee(task, thread);
      } else {
        callee(task);
      }
    };
    run_job({call, &f, tasks});
  }

 private:
  struct Job {
    void (*call)(const void* function, int task, int thread);
    const void* function;
    int tasks;
  };

  void run_job(const Job& job);
  void work(int thread);
  void serve(int thread);
  void stop();
  bool enter(std::uint32_t& epoch);
  void leave();

  // `state_` holds the workers inside the current job in its low bits and an epoch above them; the epoch is odd while a
  // job is open. A worker enters only an open job, and the caller leaves a job only when it is closed and empty, so a
  // worker that wakes late finds the door shut and delays nobody.
  std::atomic<std::uint32_t> state_{0};
  std::atomic<int> next_task_{0};
  std::atomic<bool> stopping_{false};
  Job job_{};
  std::mutex failure_mutex_;
  std::exception_ptr failure_;
  std::vector<std::thread> workers_;
};

}  // namespace nibble
