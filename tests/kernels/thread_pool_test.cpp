#include "kernels/thread_pool.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <chrono>
#include <numeric>

#include "nibble/error.h"

namespace nibble {
namespace {

TEST(ThreadPool, RunsEveryTaskOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (const int tasks : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<std::size_t>(tasks));
      pool.run(tasks, [&](int task) { runs[static_cast<std::size_t>(task)] += 1; });
      for (const auto& count : runs) EXPECT_EQ(count, 1);
    }
  }
}

TEST(ThreadPool, NamesAThreadThatNoOtherTaskHasAtTheSameTime) {
  ThreadPool pool(4);
  std::vector<std::atomic<bool>> busy(4);
  std::atomic<int> clashes = 0;
  pool.run(2000, [&](int, int thread) {
    if (busy[static_cast<std::size_t>(thread)].exchange(true)) ++clashes;
    busy[static_cast<std::size_t>(thread)] = false;
  });
  EXPECT_EQ(clashes, 0);
}

TEST(ThreadPool, MakesWhatOneJobWroteVisibleToTheNext) {
  ThreadPool pool(3);
  std::vector<int> values(64);
  for (int round = 0; round < 2000; ++round) {
    pool.run(64, [&](int task) { values[static_cast<std::size_t>(task)] += task; });
  }
  for (int task = 0; task < 64; ++task) EXPECT_EQ(values[static_cast<std::size_t>(task)], 2000 * task);
}

TEST(ThreadPool, WakesThreadsThatHaveGoneToSleep) {
  ThreadPool pool(2);
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    // Each of the two tasks waits for the other, so both threads must come.
    std::atomic<int> here = 0;
    pool.run(2, [&](int) {
      ++here;
      while (here != 2) std::this_thread::yield();
    });
    EXPECT_EQ(here, 2);
  }
}

/// The cores a thread may run on.
cpu_set_t affinity() {
  cpu_set_t cores;
  EXPECT_EQ(::sched_getaffinity(0, sizeof cores, &cores), 0);
  return cores;
}

TEST(ThreadPool, PinsEveryWorkerToACoreOfItsOwnAndLeavesTheCallerAlone) {
  const cpu_set_t allowed = affinity();
  const int cores = CPU_COUNT(&allowed);
  ThreadPool pool(cores);
  pool.pin();
  std::vector<cpu_set_t> of_thread(static_cast<std::size_t>(cores));
  std::atomic<int> here = 0;
  pool.run(cores, [&](int, int thread) {  // each task waits for the others, so every thread has one
    of_thread[static_cast<std::size_t>(thread)] = affinity();
    ++here;
    while (here != cores) std::this_thread::yield();
  });
  EXPECT_TRUE(CPU_EQUAL(&of_thread[0], &allowed));
  cpu_set_t taken;
  CPU_ZERO(&taken);
  for (std::size_t thread = 1; thread < of_thread.size(); ++thread) {
    EXPECT_EQ(CPU_COUNT(&of_thread[thread]), 1);
    CPU_OR(&taken, &taken, &of_thread[thread]);
  }
  EXPECT_EQ(CPU_COUNT(&taken), cores - 1);
}

TEST(ThreadPool, RefusesToPinMoreThreadsThanCores) {
  const cpu_set_t allowed = affinity();
  ThreadPool pool(CPU_COUNT(&allowed) + 1);
  try {
    pool.pin();
    FAIL() << "was not refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInvalidArgument);
    EXPECT_EQ(error.what(), "pinned threads: expected at most " + std::to_string(CPU_COUNT(&allowed)) +
                                ", as many as cores that the process may use, found " +
                                std::to_string(CPU_COUNT(&allowed) + 1));
  }
}

TEST(ThreadPool, ThrowsWhatATaskThrewAndWorksAfterwards) {
  for (const int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    std::atomic<int> done = 0;
    try {
      pool.run(100000, [&](int task) {
        if (task == 3) throw Error(ErrorKind::kFormat, "task 3 is bad");
        ++done;
      });
      FAIL() << "expected an error";
    } catch (const Error& error) {
      EXPECT_STREQ(error.what(), "task 3 is bad");
      EXPECT_EQ(error.kind(), ErrorKind::kFormat);
    }
    EXPECT_LT(done, 100000 - 1);
    std::atomic<int> sum = 0;
    pool.run(10, [&](int task) { sum += task; });
    EXPECT_EQ(sum, 45);
  }
}

TEST(ThreadPool, RefusesImpossibleNumbersOfThreads) {
  for (const int threads : {-1, 1025}) {
    try {
      ThreadPool pool(threads);
      FAIL() << "expected an error";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInvalidArgument);
      EXPECT_NE(std::string(error.what()).find("threads: expected 0"), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find(std::to_string(threads)), std::string::npos) << error.what();
    }
  }
}

TEST(ThreadPool, TakesAllCoresForZero) {
  EXPECT_GE(resolve_threads(0), 1);
  EXPECT_EQ(ThreadPool(0).threads(), resolve_threads(0));
}

}  // namespace
}  // namespace nibble
