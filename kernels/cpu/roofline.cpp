#include "kernels/roofline.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "kernels/buffer.h"
#include "kernels/thread_pool.h"

namespace nibble {
namespace {

using Clock = std::chrono::steady_clock;

/// So large that what one read leaves in the last-level cache does not help the next.
std::size_t beyond_caches() {
  constexpr std::size_t kLeast = std::size_t{256} << 20;
  const long last_level = ::sysconf(_SC_LEVEL3_CACHE_SIZE);  // -1 or 0 where it is not known
  return std::max(kLeast, 4 * static_cast<std::size_t>(std::max(0L, last_level)));
}

/// Reads one word of each cache line, so that memory and not adding up is what takes the time.
std::uint64_t read_lines(const std::uint64_t* words, std::size_t count) {
  constexpr std::size_t kLine = 64 / sizeof(std::uint64_t);
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < count; i += kLine) sum += words[i];
  return sum;
}

}  // namespace

double cpu_read_bandwidth(int threads) {
  constexpr std::size_t kWords = std::size_t{1} << 17;  // a piece
  constexpr std::size_t kPiece = kWords * sizeof(std::uint64_t);
  constexpr int kLeastReads = 5;
  constexpr std::chrono::milliseconds kLeastTime{200};
  const int pieces = static_cast<int>(beyond_caches() / kPiece);
  const std::size_t bytes = static_cast<std::size_t>(pieces) * kPiece;
  Buffer memory = Buffer::allocate_in_huge_pages(bytes);
  ThreadPool pool(threads);
  pool.run(pieces, [&](int piece) {
    std::memset(memory.mutable_as<std::byte>() + static_cast<std::size_t>(piece) * kPiece, 1, kPiece);
  });

  std::atomic<std::uint64_t> sum{0};  // used, so that the reads are
  double best = 0;
  const auto start = Clock::now();
  for (int read = 0; read < kLeastReads || Clock::now() - start < kLeastTime; ++read) {
    const auto begin = Clock::now();
    pool.run(pieces, [&](int piece) {
      sum += read_lines(memory.as<std::uint64_t>() + static_cast<std::size_t>(piece) * kWords, kWords);
    });
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    best = std::max(best, static_cast<double>(bytes) / seconds);
  }
  return best;
}

}  // namespace nibble
