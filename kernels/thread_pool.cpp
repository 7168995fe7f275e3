#include "kernels/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

#include "nibble/error.h"

namespace nibble {
namespace {

constexpr std::uint32_t kEpoch = 1U << 16;  ///< one step of the epoch; below it, the count of workers inside
constexpr std::uint32_t kInside = kEpoch - 1;
constexpr int kMaxThreads = 1024;

/// About 50 microseconds, longer than the gaps between the operations of one token.
constexpr int kSpins = 2000;

bool is_open(std::uint32_t state) { return (state & kEpoch) != 0; }

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Returns the first state for which `done` holds: spins, then sleeps until the state changes.
template <class Done>
std::uint32_t await(const std::atomic<std::uint32_t>& state, Done&& done) {
  for (int spin = 0; spin < kSpins; ++spin) {
    const std::uint32_t now = state.load(std::memory_order_acquire);
    if (done(now)) return now;
    relax();
  }
  for (;;) {
    const std::uint32_t now = state.load(std::memory_order_acquire);
    if (done(now)) return now;
    state.wait(now, std::memory_order_acquire);
  }
}

}  // namespace

int resolve_threads(int threads) {
  if (threads < 0 || threads > kMaxThreads) {
    throw Error(ErrorKind::kInvalidArgument, "threads: expected 0 (one a core) to " + std::to_string(kMaxThreads) +
                                                 ", found " + std::to_string(threads));
  }
  const auto cores = static_cast<int>(std::thread::hardware_concurrency());
  return threads > 0 ? threads : std::clamp(cores, 1, kMaxThreads);
}

ThreadPool::ThreadPool(int threads) {
  const int count = resolve_threads(threads);
  workers_.reserve(static_cast<std::size_t>(count - 1));
  try {
    for (int thread = 1; thread < count; ++thread) workers_.emplace_back([this, thread] { serve(thread); });
  } catch (const std::system_error& error) {
    stop();
    throw Error(ErrorKind::kOutOfMemory, "threads: expected " + std::to_string(count) + ", found that the system has " +
                                             std::to_string(this->threads()) + " to give: " + error.code().message());
  } catch (...) {
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::pin() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (::sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
    throw Error(ErrorKind::kUnsupported, "pinned threads: the system does not say which cores the process may use: " +
                                             std::generic_category().message(errno));
  }
  if (CPU_COUNT(&allowed) < threads()) {
    throw Error(ErrorKind::kInvalidArgument, "pinned threads: expected at most " + std::to_string(CPU_COUNT(&allowed)) +
                                                 ", as many as cores that the process may use, found " +
                                                 std::to_string(threads()));
  }
  std::size_t core = 0;
  const auto next_core = [&] {
    while (!CPU_ISSET(core, &allowed)) ++core;
    return core++;
  };
  next_core();
  for (std::thread& worker : workers_) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(next_core(), &one);
    if (const int error = ::pthread_setaffinity_np(worker.native_handle(), sizeof one, &one); error != 0) {
      throw Error(ErrorKind::kUnsupported, "pinned threads: the system refuses to keep one on core " +
                                               std::to_string(core - 1) + ": " +
                                               std::generic_category().message(error));
    }
  }
}

void ThreadPool::stop() {
  stopping_.store(true, std::memory_order_relaxed);
  state_.fetch_add(2 * kEpoch, std::memory_order_release);
  state_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run_job(const Job& job) {
  job_ = job;
  next_task_.store(0, std::memory_order_relaxed);
  const bool alone = job.tasks <= 1 || workers_.empty();
  if (!alone) {
    state_.fetch_add(kEpoch, std::memory_order_release);
    state_.notify_all();
  }
  work(0);
  if (!alone) {
    state_.fetch_add(kEpoch, std::memory_order_relaxed);
    await(state_, [](std::uint32_t state) { return (state & kInside) == 0; });
  }
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}

void ThreadPool::work(int thread) {
  for (;;) {
    const int task = next_task_.fetch_add(1, std::memory_order_relaxed);
    if (task >= job_.tasks) return;
    try {
      job_.call(job_.function, task, thread);
    } catch (...) {
      const std::scoped_lock lock(failure_mutex_);
      if (!failure_) failure_ = std::current_exception();
      next_task_.store(job_.tasks, std::memory_order_relaxed);
    }
  }
}

void ThreadPool::serve(int thread) {
  std::uint32_t epoch = 0;
  while (enter(epoch)) {
    work(thread);
    leave();
  }
}

/// Waits for an open job of another epoch and enters it; false when the pool is stopping.
bool ThreadPool::enter(std::uint32_t& epoch) {
  for (;;) {
    std::uint32_t state = await(state_, [&](std::uint32_t now) {
      return stopping_.load(std::memory_order_relaxed) || (is_open(now) && now / kEpoch != epoch);
    });
    if (stopping_.load(std::memory_order_relaxed)) return false;
    if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acquire, std::memory_order_relaxed)) {
      epoch = state / kEpoch;
      return true;
    }
  }
}

void ThreadPool::leave() {
  const std::uint32_t state = state_.fetch_sub(1, std::memory_order_release) - 1;
  if (!is_open(state) && (state & kInside) == 0) state_.notify_all();
}

}  // namespace nibble
