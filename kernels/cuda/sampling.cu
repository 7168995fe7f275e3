#include "kernels/cuda/sampling.h"

#include <cooperative_groups.h>

#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"

namespace nibble {
namespace {

// Every instruction here is executed a few times a launch and has to come from memory first, so that the time of a row
// goes by the length of this code as much as by the logits: loops are short, and functions are called.

constexpr int kThreads = 512;
/// Blocks that share a row.
constexpr int kMostBlocks = 8;
/// Logits that are read at once.
constexpr int kAtOnce = 4;

/// The blocks that share a row: a cluster on GPUs that have clusters, a block by itself on others.
struct Team {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  __device__ static unsigned size() { return cooperative_groups::this_cluster().num_blocks(); }
  __device__ static unsigned rank() { return cooperative_groups::this_cluster().block_rank(); }
  __device__ static void sync() { cooperative_groups::this_cluster().sync(); }
  /// A variable in shared memory, as block `rank` has it.
  template <class V>
  __device__ static V& of(unsigned rank, V& variable) {
    return *cooperative_groups::this_cluster().map_shared_rank(&variable, rank);
  }
#else
  __device__ static unsigned size() { return 1; }
  __device__ static unsigned rank() { return 0; }
  __device__ static void sync() { __syncthreads(); }
  template <class V>
  __device__ static V& of(unsigned, V& variable) {
    return variable;
  }
#endif
};

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

/// Which half of their keys tokens are searched by.
enum KeyHalf { kFirst, kSecond };

struct Shared {
  std::uint64_t bounds[2][kHalfKeys + 1];         ///< for each half: where bins begin on the line, and where it ends
  std::uint32_t low[kHalfKeys], high[kHalfKeys];  ///< sums of 64 bits, of this block's part of the row
  std::uint64_t total;                            ///< of this block's part
  Best best;                                      ///< of this block's part
  Best bests[kMostBlocks];
  Bin found;
  union {
    BestReduce::TempStorage reduce;
    SumScan::TempStorage scan;
  };
};

__device__ char* shared_memory() {
  extern __shared__ __align__(16) char memory[];
  return memory;
}
__device__ Shared& shared() { return *reinterpret_cast<Shared*>(shared_memory()); }
/// For each four of the part, which of them are wanted.
__device__ std::uint8_t* shared_marks() { return reinterpret_cast<std::uint8_t*>(shared_memory() + sizeof(Shared)); }

/// Fours of a row of logits that one of `blocks` has.
__host__ __device__ int fours_of(int cols, unsigned blocks) {
  const int fours = (cols + kAtOnce - 1) / kAtOnce, count = static_cast<int>(blocks);
  return (fours + count - 1) / count;
}

/// This block's part of a row: its logits, changed, then its keys.
struct Part {
  uint4* fours;
  int first, count;  ///< of the row's fours

  template <class F>
  __device__ void for_each_four(F&& f) const {
    for (int i = threadIdx.x; i < count; i += kThreads) f(i);
  }
  __device__ int id(int four) const { return (first + four) * kAtOnce; }
};

template <class T>
__device__ float4 load4(const T* p) {
  if constexpr (sizeof(T) == 4) {
    return *reinterpret_cast<const float4*>(p);
  } else {
    const uint2 words = *reinterpret_cast<const uint2*>(p);
    const float2 a = unpack2<T>(words.x), b = unpack2<T>(words.y);
    return {a.x, a.y, b.x, b.y};
  }
}

/// Puts penalised and scaled logits into the part; not numbers behind the row.
template <class T>
__device__ void change_logits(const T* row, int cols, const Part& part, const DeviceChoice& choice, const int* seen) {
  const Draw& draw = choice.draw;
  const auto scaled = [&](float logit) { return draw.temperature == 0.0F ? logit : logit / draw.temperature; };
  part.for_each_four([&](int i) {
    const int id = part.id(i);
    float4 v;
    if (cols % kAtOnce == 0) {
      v = load4(row + id);
    } else {
      v.x = to_f32(row[id]);
      v.y = id + 1 < cols ? to_f32(row[id + 1]) : NAN;
      v.z = id + 2 < cols ? to_f32(row[id + 2]) : NAN;
      v.w = id + 3 < cols ? to_f32(row[id + 3]) : NAN;
    }
    *reinterpret_cast<float4*>(part.fours + i) = {scaled(v.x), scaled(v.y), scaled(v.z), scaled(v.w)};
  });
  __syncthreads();
  if (draw.repetition_penalty == 1.0F) return;
  auto* const values = reinterpret_cast<float*>(part.fours);
  for (int i = choice.seen_begin + static_cast<int>(threadIdx.x); i < choice.seen_end; i += kThreads) {
    const int id = seen[i], place = id - part.id(0);
    if (place < 0 || place >= part.count * kAtOnce) continue;
    values[place] = scaled(penalised(to_f32(row[id]), draw.repetition_penalty));
  }
  __syncthreads();
}

/// The likeliest token of the row.
__device__ Best find_best(const Part& part) {
  Best best{-INFINITY, part.id(0)};
  part.for_each_four([&](int i) {
    const float4 v = *reinterpret_cast<const float4*>(part.fours + i);
    const int id = part.id(i);
    best = Best::better(best, {v.x, id});
    best = Best::better(best, {v.y, id + 1});
    best = Best::better(best, {v.z, id + 2});
    best = Best::better(best, {v.w, id + 3});
  });
  best = BestReduce(shared().reduce).Reduce(best, Best::better);
  if (threadIdx.x == 0) shared().best = best;
  Team::sync();
  if (threadIdx.x < Team::size()) shared().bests[threadIdx.x] = Team::of(threadIdx.x, shared().best);
  __syncthreads();
  best = shared().bests[0];
  for (unsigned rank = 1; rank < Team::size(); ++rank) best = Best::better(best, shared().bests[rank]);
  return best;
}

/// The sum of the values of the threads before this one; shared().total becomes that of all.
__device__ __noinline__ std::uint64_t sum_before(std::uint64_t value) {
  std::uint64_t before, total;
  SumScan(shared().scan).ExclusiveSum(value, before, total);
  if (threadIdx.x == 0) shared().total = total;
  __syncthreads();
  return before;
}

/// Adds to a bin of this block's part. There is no instruction for sums of 64 bits in shared memory.
__device__ void add(std::uint32_t bin, std::uint64_t amount) {
  const auto low = static_cast<std::uint32_t>(amount);
  const bool carry = atomicAdd(&shared().low[bin], low) > ~low;
  const std::uint32_t high = static_cast<std::uint32_t>(amount >> 32) + carry;
  if (high != 0) atomicAdd(&shared().high[bin], high);
}

/// Bins of what the blocks have added, for all of them.
__device__ __noinline__ void gather(KeyHalf half) {
  Team::sync();
  // Each block adds up its share of the bins and tells all of them.
  const std::uint32_t share = kHalfKeys / Team::size();
  for (std::uint32_t i = threadIdx.x; i < share; i += kThreads) {
    const std::uint32_t bin = Team::rank() * share + i;
    std::uint64_t sum = 0;
#pragma unroll
    for (unsigned rank = 0; rank < kMostBlocks; ++rank) {
      if (rank >= Team::size()) continue;
      sum += Team::of(rank, shared().low[bin]) + (std::uint64_t{Team::of(rank, shared().high[bin])} << 32);
    }
    for (unsigned rank = 0; rank < Team::size(); ++rank) Team::of(rank, shared().bounds[half][bin]) = sum;
  }
  Team::sync();
  constexpr int kEach = kHalfKeys / kThreads;
  std::uint64_t* const mine = shared().bounds[half] + threadIdx.x * kEach;
  std::uint64_t sum = 0;
  for (int i = 0; i < kEach; ++i) sum += mine[i];
  std::uint64_t before = sum_before(sum);
  for (int i = 0; i < kEach; ++i) {
    const std::uint64_t next = before + mine[i];
    mine[i] = before;
    before = next;
  }
  if (threadIdx.x == kThreads - 1) mine[kEach] = before;
  __syncthreads();
}

/// The bin that a place before the end lies in.
__device__ __noinline__ Bin find(KeyHalf half, std::uint64_t place) {
  const std::uint64_t* const bounds = shared().bounds[half];
  for (std::uint32_t bin = threadIdx.x; bin < kHalfKeys; bin += kThreads) {
    if (bounds[bin] <= place && place < bounds[bin + 1]) shared().found = {bin, bounds[bin]};
  }
  __syncthreads();
  const Bin found = shared().found;
  __syncthreads();
  return found;
}

/// The line of tokens that kernels/sampling.h speaks of. All threads of all blocks of a row call its functions
/// together.
class TokenLine {
 public:
  __device__ explicit TokenLine(const Part& part, float largest) : part_(part) {
    part_.for_each_four([&](int i) {
      const float4 v = *reinterpret_cast<const float4*>(part_.fours + i);
      part_.fours[i] = {key_of(v.x, largest), key_of(v.y, largest), key_of(v.z, largest), key_of(v.w, largest)};
    });
  }

  __device__ std::uint32_t key_of_rank(std::uint32_t rank) {
    const auto one = [](std::uint32_t) { return std::uint64_t{1}; };
    fill(kFirst, 0, kKeys, one);
    if (shared().bounds[kFirst][kHalfKeys] < rank) return kKeys - 1;
    const Bin first = find(kFirst, rank - 1);
    const std::uint32_t nearest = first.number << kHalfKey;
    fill(kSecond, nearest, nearest + kHalfKeys, one);
    return nearest + find(kSecond, rank - 1 - first.before).number;
  }

  __device__ std::uint64_t measure(std::uint32_t keys) {
    fill(kFirst, 0, keys, Length());
    return shared().bounds[kFirst][kHalfKeys];
  }

  __device__ Stand at(std::uint64_t place) {
    const Bin first = find(kFirst, place);
    const std::uint32_t nearest = first.number << kHalfKey;
    fill(kSecond, nearest, nearest + kHalfKeys, Length());
    const Bin second = find(kSecond, place - first.before);
    return {nearest + second.number, first.before + second.before};
  }

  /// -1 in every thread but the one that finds it.
  __device__ int token(std::uint32_t key, std::uint32_t skipped) {
    part_.for_each_four([&](int i) {
      const uint4 k = part_.fours[i];
      shared_marks()[i] =
          static_cast<std::uint8_t>((k.x == key) | (k.y == key) << 1 | (k.z == key) << 2 | (k.w == key) << 3);
    });
    __syncthreads();
    // Now each thread has consecutive fours.
    const int run = (part_.count + kThreads - 1) / kThreads;
    const int begin = min(static_cast<int>(threadIdx.x) * run, part_.count), end = min(begin + run, part_.count);
    unsigned count = 0;
    for (int i = begin; i < end; ++i) count += static_cast<unsigned>(__popc(shared_marks()[i]));
    std::uint64_t before = sum_before(count);
    Team::sync();
    for (unsigned rank = 0; rank < Team::rank(); ++rank) before += Team::of(rank, shared().total);
    if (skipped < before || skipped >= before + count) return -1;
    skipped -= static_cast<std::uint32_t>(before);
    for (int i = begin;; ++i) {
      for (unsigned marks = shared_marks()[i]; marks != 0; marks &= marks - 1) {
        if (skipped-- == 0) return part_.id(i) + __ffs(static_cast<int>(marks)) - 1;
      }
    }
  }

 private:
  struct Length {
    __device__ std::uint64_t operator()(std::uint32_t key) const { return length_of(key); }
  };

  /// Puts the tokens with keys from `from` to before `to` into bins by one half of their keys.
  template <class Amount>
  __device__ void fill(KeyHalf half, std::uint32_t from, std::uint32_t to, Amount amount) {
    fill_from(part_, half, from, to, amount);
  }
  template <class Amount>
  __device__ __noinline__ static void fill_from(const Part part, KeyHalf half, std::uint32_t from, std::uint32_t to,
                                                Amount amount) {
    for (int i = threadIdx.x; i < static_cast<int>(kHalfKeys); i += kThreads) shared().low[i] = shared().high[i] = 0;
    __syncthreads();
    const int shift = half == kFirst ? kHalfKey : 0;
    const auto* const keys = reinterpret_cast<const std::uint32_t*>(part.fours);
#pragma unroll 4
    for (int i = threadIdx.x; i < part.count * kAtOnce; i += kThreads) {
      const std::uint32_t key = keys[i];
      if (key >= from && key < to) add((key >> shift) % kHalfKeys, amount(key));
    }
    gather(half);
  }

  Part part_;
};

/// One row a cluster, or a block. `keys` has whole fours for each row.
template <class T>
__global__ void __launch_bounds__(kThreads)
    choose_kernel(const T* logits, int cols, const DeviceChoice* choices, const int* seen, uint4* keys, int* chosen) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  const DeviceChoice choice = choices[blockIdx.y];
  const int row_fours = fours_of(cols, 1), fours = fours_of(cols, Team::size());
  const int first = min(static_cast<int>(Team::rank()) * fours, row_fours);
  const Part part{keys + static_cast<std::int64_t>(blockIdx.y) * row_fours + first, first,
                  min(fours, row_fours - first)};
  change_logits(logits + static_cast<std::int64_t>(blockIdx.y) * cols, cols, part, choice, seen);
  const Best best = find_best(part);
  if (choice.draw.temperature == 0.0F) {
    if (Team::rank() == 0 && threadIdx.x == 0) chosen[blockIdx.y] = best.id;
  } else {
    TokenLine line(part, best.value);
    __syncthreads();
    const int token = draw_from(line, choice.draw);
    if (token >= 0) chosen[blockIdx.y] = token;
  }
  Team::sync();  // others may still read what is here
}

/// Whether the kernel was compiled for GPUs that have clusters.
template <auto kKernel>
bool has_clusters() {
  static const bool found = [] {
    cudaFuncAttributes attributes{};
    check(cudaFuncGetAttributes(&attributes, kKernel), "asking for a kernel");
    return attributes.ptxVersion >= 90;
  }();
  return found;
}

}  // namespace

std::size_t choose_key_bytes(int rows, int cols) {
  return static_cast<std::size_t>(rows) * static_cast<std::size_t>(fours_of(cols, 1)) * sizeof(uint4);
}

template <class T>
void choose_tokens(const Launch& launch, Tensor logits, const DeviceChoice* choices, const int* seen, void* keys,
                   int* chosen) {
  constexpr auto kKernel = choose_kernel<T>;
  const auto rows = static_cast<unsigned>(logits.rows);
  unsigned blocks = has_clusters<kKernel>() ? kMostBlocks : 1;
  while (blocks > 1 && blocks * rows > static_cast<unsigned>(launch.processors)) blocks /= 2;
  const std::size_t bytes = sizeof(Shared) + static_cast<std::size_t>(fours_of(logits.cols, blocks));
  if (bytes > static_cast<std::size_t>(most_shared_bytes())) {
    throw Error(ErrorKind::kUnsupported, "device cuda: expected a vocabulary that fits shared memory, found " +
                                             std::to_string(logits.cols) + " tokens");
  }
  allow_shared_memory<kKernel>();
  launch_in_clusters(launch, kKernel, dim3(blocks, rows), blocks, kThreads, static_cast<int>(bytes), logits.row<T>(0),
                     logits.cols, choices, seen, static_cast<uint4*>(keys), chosen);
}

template void choose_tokens<float>(const Launch&, Tensor, const DeviceChoice*, const int*, void*, int*);
template void choose_tokens<Half>(const Launch&, Tensor, const DeviceChoice*, const int*, void*, int*);
template void choose_tokens<BFloat16>(const Launch&, Tensor, const DeviceChoice*, const int*, void*, int*);

}  // namespace nibble
