#include "kernels/cuda/sampling.h"

#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/team.cuh"

namespace nibble {
namespace {

constexpr int kThreads = 1024;
/// Logits that are read at once; a byte says something about each.
constexpr int kAtOnce = 8;

struct Best {
  float value;
  int id;

  __device__ static Best better(const Best& a, const Best& b) {
    return b.value > a.value || (b.value == a.value && b.id < a.id) ? b : a;
  }
};

struct Bin {
  std::uint32_t number;
  std::uint64_t before;
};

using BestReduce = cub::BlockReduce<Best, kThreads>;
using SumScan = cub::BlockScan<std::uint64_t, kThreads, cub::BLOCK_SCAN_WARP_SCANS>;

/// Where bins begin, of which the first begins at 0, and where the last one ends.
using Bounds = std::uint64_t[kHalfKeys + 1];

struct Shared {
  Bounds first_halves, second_halves;             ///< on the row's line
  std::uint32_t low[kHalfKeys], high[kHalfKeys];  ///< sums of 64 bits, of this block's part of the row
  std::uint64_t ties;                             ///< in this block's part
  Best best;                                      ///< of this block's part
  Best bests[kMostTeam];
  Bin found;
  union {
    BestReduce::TempStorage reduce;
    SumScan::TempStorage scan;
  };
};

/// Eights of a row of logits that one of `blocks` has, in fours.
__host__ __device__ int eights_of(int cols, unsigned blocks) {
  const int eights = (cols + kAtOnce - 1) / kAtOnce, count = static_cast<int>(blocks);
  return ((eights + count - 1) / count + 3) / 4 * 4;
}

/// This block's part of a row of logits, eight at a time.
template <class T>
struct Part {
  const T* row;
  int cols;
  int first, count;  ///< eights
  float temperature, penalty;
  std::uint8_t* seen;  ///< a bit for each logit, or null
  std::uint8_t* ties;  ///< the same

  /// Calls f(eight, values) with penalised and scaled logits; those behind the row are not numbers.
  template <class F>
  __device__ void for_each_eight(F&& f) const {
    for (int i = threadIdx.x; i < count; i += kThreads) {
      const int column = (first + i) * kAtOnce;
      float values[kAtOnce];
      if (cols % kAtOnce == 0) {
        load8(row + column, values);
      } else {
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) values[j] = column + j < cols ? to_f32(row[column + j]) : NAN;
      }
      const unsigned penalise = seen == nullptr ? 0 : seen[i];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        if (penalise >> j & 1) values[j] = penalised(values[j], penalty);
        values[j] = values[j] / temperature;
      }
      f(i, values);
    }
  }
};

/// Marks which of the part's tokens are among `ids`.
template <class T>
__device__ void mark_seen(const Part<T>& part, const int* ids, int count) {
  auto* words = reinterpret_cast<unsigned*>(part.seen);
  for (int i = threadIdx.x; i < (part.count + 3) / 4; i += kThreads) words[i] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += kThreads) {
    const int place = ids[i] - part.first * kAtOnce;
    if (place >= 0 && place < part.count * kAtOnce) atomicOr(words + place / 32, 1U << place % 32);
  }
  __syncthreads();
}

/// The likeliest token of the row.
template <class T>
__device__ Best find_best(const Part<T>& part, Shared& shared) {
  Best best{-INFINITY, part.first * kAtOnce};
  part.for_each_eight([&](int eight, const float(&values)[kAtOnce]) {
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      best = Best::better(best, {values[j], (part.first + eight) * kAtOnce + j});
    }
  });
  best = BestReduce(shared.reduce).Reduce(best, Best::better);
  if (threadIdx.x == 0) shared.best = best;
  Team::sync();
  if (threadIdx.x < Team::size()) shared.bests[threadIdx.x] = Team::of(threadIdx.x, shared.best);
  __syncthreads();
  best = shared.bests[0];
  for (unsigned rank = 1; rank < Team::size(); ++rank) best = Best::better(best, shared.bests[rank]);
  return best;
}

/// Bins whose contents count once.
struct One {
  __device__ std::uint64_t operator()(std::uint32_t) const { return 1; }
};

/// The line of tokens that kernels/sampling.h speaks of. All threads of all blocks of a row call its functions
/// together.
template <class T>
class TokenLine {
 public:
  __device__ TokenLine(const Part<T>& part, float largest, Shared& shared)
      : part_(part), largest_(largest), shared_(shared) {}

  __device__ std::uint32_t key_of_rank(std::uint32_t rank) {
    Bounds& bounds = shared_.second_halves;  // both times
    collect(bounds, One(), [&](std::uint32_t key) {
      if (key < kKeys) add(key >> kHalfKey, 1);
    });
    if (bounds[kHalfKeys] < rank) return kKeys - 1;
    const Bin first = find(bounds, rank - 1);
    collect(bounds, One(), [&](std::uint32_t key) {
      if (key >> kHalfKey == first.number) add(key % kHalfKeys, 1);
    });
    return (first.number << kHalfKey) + find(bounds, rank - 1 - first.before).number;
  }

  __device__ std::uint64_t measure(std::uint32_t keys) {
    collect(shared_.first_halves, One(), [&](std::uint32_t key) {
      if (key < keys) add(key >> kHalfKey, length_of(key));
    });
    return shared_.first_halves[kHalfKeys];
  }

  __device__ Stand at(std::uint64_t place) {
    const Bin first = find(shared_.first_halves, place);
    const std::uint32_t nearest = first.number << kHalfKey;
    const auto length = [&](std::uint32_t second) { return length_of(nearest + second); };
    collect(shared_.second_halves, length, [&](std::uint32_t key) {
      if (key >> kHalfKey == first.number) add(key % kHalfKeys, 1);
    });
    const Bin second = find(shared_.second_halves, place - first.before);
    return {nearest + second.number, first.before + second.before};
  }

  /// -1 in every thread but the one that finds it.
  __device__ int token(std::uint32_t key, std::uint32_t skipped) {
    part_.for_each_eight([&](int eight, const float(&values)[kAtOnce]) {
      unsigned found = 0;
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) found |= static_cast<unsigned>(key_of(values[j], largest_) == key) << j;
      part_.ties[eight] = static_cast<std::uint8_t>(found);
    });
    __syncthreads();
    // Now each thread has consecutive eights.
    const int run = (part_.count + kThreads - 1) / kThreads;
    const int begin = min(static_cast<int>(threadIdx.x) * run, part_.count), end = min(begin + run, part_.count);
    std::uint64_t count = 0, before, total;
    for (int i = begin; i < end; ++i) count += static_cast<unsigned>(__popc(part_.ties[i]));
    SumScan(shared_.scan).ExclusiveSum(count, before, total);
    if (threadIdx.x == 0) shared_.ties = total;
    Team::sync();
    for (unsigned rank = 0; rank < Team::rank(); ++rank) before += Team::of(rank, shared_.ties);
    if (skipped < before || skipped >= before + count) return -1;
    skipped -= static_cast<std::uint32_t>(before);
    for (int i = begin;; ++i) {
      for (unsigned found = part_.ties[i]; found != 0; found &= found - 1) {
        if (skipped-- == 0) return (part_.first + i) * kAtOnce + __ffs(static_cast<int>(found)) - 1;
      }
    }
  }

 private:
  /// Adds to a bin of this block's part. There is no instruction for sums of 64 bits in shared memory.
  __device__ void add(std::uint32_t bin, std::uint64_t amount) {
    const auto low = static_cast<std::uint32_t>(amount);
    const bool carry = atomicAdd(&shared_.low[bin], low) > ~low;
    const std::uint32_t high = static_cast<std::uint32_t>(amount >> 32) + carry;
    if (high != 0) atomicAdd(&shared_.high[bin], high);
  }

  /// Makes `bounds` those of bins filled by `put`, which is given every key of the row and adds it to one or none. What
  /// is in bin b counts length(b) times.
  template <class Length, class Put>
  __device__ void collect(Bounds& bounds, Length&& length, Put&& put) {
    for (int i = threadIdx.x; i < static_cast<int>(kHalfKeys); i += kThreads) shared_.low[i] = shared_.high[i] = 0;
    __syncthreads();
    part_.for_each_eight([&](int, const float(&values)[kAtOnce]) {
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) put(key_of(values[j], largest_));
    });
    Team::sync();
    // Each block adds up its share of the bins and tells all of them.
    const std::uint32_t share = kHalfKeys / Team::size();
    for (std::uint32_t i = threadIdx.x; i < share; i += kThreads) {
      const std::uint32_t bin = Team::rank() * share + i;
      std::uint64_t sum = 0;
      for (unsigned rank = 0; rank < Team::size(); ++rank) {
        sum += Team::of(rank, shared_.low[bin]) + (static_cast<std::uint64_t>(Team::of(rank, shared_.high[bin])) << 32);
      }
      if (sum != 0) sum *= length(bin);
      for (unsigned rank = 0; rank < Team::size(); ++rank) Team::of(rank, bounds[bin]) = sum;
    }
    Team::sync();
    const std::uint32_t mine = 2 * threadIdx.x;
    static_assert(kHalfKeys == 2 * kThreads);
    const std::uint64_t first = bounds[mine];
    std::uint64_t before, total;
    SumScan(shared_.scan).ExclusiveSum(first + bounds[mine + 1], before, total);
    bounds[mine] = before;
    bounds[mine + 1] = before + first;
    if (threadIdx.x == 0) bounds[kHalfKeys] = total;
    __syncthreads();
  }

  /// The bin that a place before the last one's end lies in.
  __device__ Bin find(const Bounds& bounds, std::uint64_t place) {
    for (std::uint32_t bin = threadIdx.x; bin < kHalfKeys; bin += kThreads) {
      if (bounds[bin] <= place && place < bounds[bin + 1]) shared_.found = {bin, bounds[bin]};
    }
    __syncthreads();
    const Bin found = shared_.found;
    __syncthreads();
    return found;
  }

  const Part<T>& part_;
  float largest_;
  Shared& shared_;
};

/// One row a cluster, or a block.
template <class T>
__global__ void __launch_bounds__(kThreads)
    choose_kernel(const T* logits, int cols, const DeviceChoice* choices, const int* seen, int* chosen) {
  extern __shared__ __align__(16) char memory[];
  auto& shared = *reinterpret_cast<Shared*>(memory);
  let_next_kernel_start();
  wait_for_previous_kernel();
  const DeviceChoice choice = choices[blockIdx.y];
  const Draw& draw = choice.draw;
  const int eights = eights_of(cols, Team::size());
  const int first = static_cast<int>(Team::rank()) * eights;
  auto* bits = reinterpret_cast<std::uint8_t*>(memory + sizeof(Shared));
  Part<T> part{logits + static_cast<std::int64_t>(blockIdx.y) * cols,
               cols,
               first,
               max(0, min(eights, (cols + kAtOnce - 1) / kAtOnce - first)),
               draw.temperature == 0.0F ? 1.0F : draw.temperature,
               draw.repetition_penalty,
               nullptr,
               bits};
  if (draw.repetition_penalty != 1.0F) {
    part.seen = bits + eights;
    mark_seen(part, seen + choice.seen_begin, choice.seen_end - choice.seen_begin);
  }
  const Best best = find_best(part, shared);
  if (draw.temperature == 0.0F) {
    if (Team::rank() == 0 && threadIdx.x == 0) chosen[blockIdx.y] = best.id;
  } else {
    TokenLine<T> line(part, best.value, shared);
    const int token = draw_from(line, draw);
    if (token >= 0) chosen[blockIdx.y] = token;
  }
  Team::sync();  // others may still read what is here
}

}  // namespace

template <class T>
void choose_tokens(const Launch& launch, Tensor logits, const DeviceChoice* choices, const int* seen, int* chosen) {
  constexpr auto kKernel = choose_kernel<T>;
  const auto rows = static_cast<unsigned>(logits.rows);
  unsigned blocks = has_clusters<kKernel>() ? kMostTeam : 1;
  // Clusters do not reach all multiprocessors, and those that have to wait take twice as long.
  while (blocks > 1 && 4 * blocks * rows > 3 * static_cast<unsigned>(launch.processors)) blocks /= 2;
  const std::size_t bytes = sizeof(Shared) + 2 * static_cast<std::size_t>(eights_of(logits.cols, blocks));
  if (bytes > static_cast<std::size_t>(most_shared_bytes())) {
    throw Error(ErrorKind::kUnsupported, "device cuda: expected a vocabulary that fits shared memory, found " +
                                             std::to_string(logits.cols) + " tokens");
  }
  allow_shared_memory<kKernel>();
  launch_in_clusters(launch, kKernel, dim3(blocks, rows), blocks, kThreads, static_cast<int>(bytes), logits.row<T>(0),
                     logits.cols, choices, seen, chosen);
}

template void choose_tokens<float>(const Launch&, Tensor, const DeviceChoice*, const int*, int*);
template void choose_tokens<Half>(const Launch&, Tensor, const DeviceChoice*, const int*, int*);
template void choose_tokens<BFloat16>(const Launch&, Tensor, const DeviceChoice*, const int*, int*);

}  // namespace nibble
