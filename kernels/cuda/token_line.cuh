// The line of tokens that kernels/sampling.h speaks of, in the shared memory of a team.
//
// Each block has a part of the row's logits: counts and lengths of tokens by the first halves of their keys, and a list
// of the tokens in the order of those halves. The first block cuts the line and draws: it looks up in which first half
// a place lies, by reading what all blocks have, and then counts the second halves of the tokens listed there.
#pragma once

#include <cub/block/block_scan.cuh>

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/team.cuh"
#include "kernels/sampling.h"

namespace nibble {

inline constexpr int kThreads = 1024;
inline constexpr unsigned kWarp = 32;
/// Logits that are read at once; a byte says which have been seen.
inline constexpr int kAtOnce = 8;
/// Bins are halves of keys, or words of a bit for each token. Each warp sums up a group of them, two a lane.
inline constexpr unsigned kGroup = kHalfKeys / kWarp;
inline constexpr int kMostTokens = 32 * kHalfKeys;
static_assert(kThreads == kWarp * kWarp && kGroup == 2 * kWarp);

struct Bin {
  std::uint32_t number;  ///< kHalfKeys: behind the last one
  std::uint64_t before;
};

using CountScan = cub::BlockScan<std::uint32_t, kThreads, cub::BLOCK_SCAN_WARP_SCANS>;

struct Shared {
  // Of this block's part, by first halves.
  std::uint32_t low[kHalfKeys], high[kHalfKeys];  ///< of lengths
  std::uint32_t counts[kHalfKeys];
  std::uint32_t ends[kHalfKeys];  ///< in the list
  std::uint64_t group_lengths[kWarp], group_counts[kWarp];

  // In the first block.
  std::uint32_t bins[kHalfKeys];
  Bin found;

  std::uint64_t sums[kWarp];       ///< of warps or groups
  std::uint64_t bests[kMostTeam];  ///< of the blocks
  Inbox inbox;
  CountScan::TempStorage scan;

  __device__ void open() {
    inbox.open(static_cast<int>(Team::size() * sizeof(bests[0])));
    for (int i = threadIdx.x; i < static_cast<int>(kHalfKeys); i += kThreads) low[i] = high[i] = counts[i] = 0;
  }
};

/// Where what depends on the vocabulary stands behind that.
struct Layout {
  int eights;  ///< of logits that a block has, in fours
  int list, seen, bytes;

  __host__ __device__ Layout(int cols, unsigned blocks) {
    const int all = (cols + kAtOnce - 1) / kAtOnce, count = static_cast<int>(blocks);
    eights = ((all + count - 1) / count + 3) / 4 * 4;
    list = static_cast<int>(sizeof(Shared));
    seen = list + (blocks == 1 ? 0 : eights * kAtOnce * static_cast<int>(sizeof(std::uint32_t)));
    bytes = seen + eights;
  }
};

/// A block's part of a row of logits.
template <class T>
struct Part {
  const T* row;
  int cols;
  int first, count;  ///< eights
  float penalty;
  std::uint8_t* seen;  ///< a bit for each logit

  /// Eight penalised logits; those behind the row are not numbers.
  __device__ void load(int eight, float (&values)[kAtOnce]) const {
    const int column = (first + eight) * kAtOnce;
    if (cols % kAtOnce == 0) {
      load8(row + column, values);
    } else {
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) values[j] = column + j < cols ? to_f32(row[column + j]) : NAN;
    }
#pragma unroll 1
    for (unsigned left = seen[eight]; left != 0; left &= left - 1) {  // in turn: one copy of the division
      const int which = __ffs(static_cast<int>(left)) - 1;
      float value = 0;
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) value = j == which ? values[j] : value;
      value = penalised(value, penalty);
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) values[j] = j == which ? value : values[j];
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

/// The sum of a variable in shared memory over all blocks, which are asked at the same time.
template <class V>
__device__ std::uint64_t team_sum(V& variable) {
  std::uint64_t sum = 0;
#pragma unroll
  for (unsigned rank = 0; rank < kMostTeam; ++rank) {
    if (rank < Team::size()) sum += Team::of(rank, variable);
  }
  return sum;
}

/// By a warp: the lane that a place lies in, kWarp where it lies behind all, when lanes are so long.
__device__ inline Bin find_lane(std::uint64_t length, std::uint64_t place) {
  const unsigned lane = threadIdx.x % kWarp;
  std::uint64_t end = length;
#pragma unroll
  for (unsigned step = 1; step < kWarp; step *= 2) {
    const std::uint64_t before = __shfl_up_sync(~0U, end, step);
    if (lane >= step) end += before;
  }
  const unsigned beyond = __ballot_sync(~0U, place < end);
  const unsigned found = beyond == 0 ? kWarp : static_cast<unsigned>(__ffs(static_cast<int>(beyond))) - 1;
  return {found, __shfl_sync(~0U, end - length, found % kWarp)};
}

/// The keys of eight tokens.
struct Keys {
  std::uint32_t of[kAtOnce];

  __device__ Keys(const float (&values)[kAtOnce], float temperature, float largest) {
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) of[j] = key_of(values[j] / temperature, largest);
  }
};

/// Those of eight logits that have to be read for it: one copy of what many loops call, where few blocks share a row.
template <class T>
__device__ __noinline__ Keys read_keys(Part<T> part, int eight, float temperature, float largest) {
  float values[kAtOnce];
  part.load(eight, values);
  return {values, temperature, largest};
}

template <class T>
class TokenLine {
 public:
  /// `values` are those of the thread's first eight logits.
  __device__ TokenLine(const Part<T>& part, const float (&values)[kAtOnce], float temperature, float largest,
                       Shared& shared, std::uint32_t* list)
      : part_(part),
        temperature_(temperature),
        largest_(largest / temperature),
        shared_(shared),
        list_(list),
        keys_(values, temperature_, largest_) {}

  /// By all threads of every block: makes its part ready to be looked up.
  __device__ void arrange() {
    for_each_eight([&](int, const std::uint32_t(&keys)[kAtOnce]) {
      // There is no instruction for sums of 64 bits in shared memory. All additions are on their way before the first
      // carry is waited for.
      std::uint64_t lengths[kAtOnce];
      std::uint32_t before[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) lengths[j] = length_of(keys[j]);
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        if (keys[j] >= kKeys) continue;
        atomicAdd(&shared_.counts[keys[j] >> kHalfKey], 1);
        before[j] = atomicAdd(&shared_.low[keys[j] >> kHalfKey], static_cast<std::uint32_t>(lengths[j]));
      }
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const bool carry = before[j] > ~static_cast<std::uint32_t>(lengths[j]);
        const std::uint32_t high = static_cast<std::uint32_t>(lengths[j] >> 32) + carry;
        if (keys[j] < kKeys && high != 0) atomicAdd(&shared_.high[keys[j] >> kHalfKey], high);
      }
    });
    __syncthreads();
    sum_groups(shared_.group_lengths, [&](std::uint32_t bin) {
      return static_cast<std::uint64_t>(shared_.high[bin]) << 32 | shared_.low[bin];
    });
    sum_groups(shared_.group_counts, [&](std::uint32_t bin) { return shared_.counts[bin]; });
    if (Team::size() == 1) return;
    std::uint32_t places[2] = {shared_.counts[2 * threadIdx.x], shared_.counts[2 * threadIdx.x + 1]};
    CountScan(shared_.scan).ExclusiveSum(places, places);
    shared_.ends[2 * threadIdx.x] = places[0];
    shared_.ends[2 * threadIdx.x + 1] = places[1];
    __syncthreads();
    for_each_eight([&](int column, const std::uint32_t(&keys)[kAtOnce]) {
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        if (keys[j] >= kKeys) continue;
        const std::uint32_t place = atomicAdd(&shared_.ends[keys[j] >> kHalfKey], 1);
        list_[place] = keys[j] % kHalfKeys << 16 | static_cast<std::uint32_t>(column + j);
      }
    });
  }

  // By all threads of the first block, when all are ready:

  __device__ std::uint32_t key_of_rank(std::uint32_t rank) {
    const Bin first = find([&](unsigned group) { return team_sum(shared_.group_counts[group]); },
                           [&](std::uint32_t bin) { return team_sum(shared_.counts[bin]); }, rank - 1);
    if (first.number == kHalfKeys) return kKeys - 1;
    const Bin second = search(
        first.number, [&](std::uint32_t key, int) { atomicAdd(&shared_.bins[key % kHalfKeys], 1); },
        [&](std::uint32_t bin) { return shared_.bins[bin]; }, rank - 1 - first.before);
    return (first.number << kHalfKey) + second.number;
  }

  __device__ std::uint64_t measure(std::uint32_t keys) {
    const std::uint32_t first = keys >> kHalfKey, group = first / kGroup, bin = group * kGroup + threadIdx.x;
    std::uint64_t length = 0;
    if (threadIdx.x < group) length += length_of_group(threadIdx.x);
    if (bin < first) length += length_of_bin(bin);
    if (keys % kHalfKeys != 0) {
      for_each_of(first, [&](std::uint32_t key, int) {
        if (key < keys) length += length_of(key);
      });
    }
    length = warp_sum(length);
    if (threadIdx.x % kWarp == 0) shared_.sums[threadIdx.x / kWarp] = length;
    __syncthreads();
    length = warp_sum(shared_.sums[threadIdx.x % kWarp]);
    __syncthreads();
    return length;
  }

  __device__ Stand at(std::uint64_t place) {
    const Bin first = find([&](unsigned group) { return length_of_group(group); },
                           [&](std::uint32_t bin) { return length_of_bin(bin); }, place);
    const std::uint32_t nearest = first.number << kHalfKey;
    const Bin second = search(
        first.number, [&](std::uint32_t key, int) { atomicAdd(&shared_.bins[key % kHalfKeys], 1); },
        [&](std::uint32_t bin) { return shared_.bins[bin] * length_of(nearest + bin); }, place - first.before);
    return {nearest + second.number, first.before + second.before};
  }

  __device__ int token(std::uint32_t key, std::uint32_t skipped) {
    const Bin word = search(
        key >> kHalfKey,
        [&](std::uint32_t other, int id) {
          if (other == key) atomicOr(&shared_.bins[id / 32], 1U << id % 32);
        },
        [&](std::uint32_t bin) { return __popc(shared_.bins[bin]); }, skipped);
    std::uint32_t bits = shared_.bins[word.number];
    for (std::uint64_t i = word.before; i < skipped; ++i) bits &= bits - 1;
    return static_cast<int>(word.number) * 32 + __ffs(static_cast<int>(bits)) - 1;
  }

 private:
  /// Calls f(column, keys) for this block's part, eight at a time.
  template <class F>
  __device__ void for_each_eight(F&& f) const {
#pragma unroll 1
    for (int i = threadIdx.x; i < part_.count; i += kThreads) {
      const Keys keys = i < kThreads ? keys_ : read_keys(part_, i, temperature_, largest_);
      f((part_.first + i) * kAtOnce, keys.of);
    }
  }

  /// Calls f(key, id) for all tokens with that first half of a key. Each block's list has them beside each other; a
  /// block by itself, which has no room for a list of all tokens, goes through the row again.
  template <class F>
  __device__ void for_each_of(std::uint32_t first, F&& f) {
    if (Team::size() == 1) {
      for_each_eight([&](int column, const std::uint32_t(&keys)[kAtOnce]) {
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
          if (keys[j] >> kHalfKey == first) f(keys[j], column + j);
        }
      });
      return;
    }
    const unsigned warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, rank = warp % Team::size();
    const std::uint32_t end = Team::of(rank, shared_.ends[first]);
    const std::uint32_t begin = end - Team::of(rank, shared_.counts[first]) + warp / Team::size() * kWarp;
    for (std::uint32_t i = begin + lane; i < end; i += kThreads / Team::size()) {
      const std::uint32_t entry = Team::of(rank, list_[i]);
      f(first << kHalfKey | entry >> 16, static_cast<int>(entry & 0xffff));
    }
  }

  /// What all blocks together have.
  __device__ std::uint64_t length_of_group(unsigned group) { return team_sum(shared_.group_lengths[group]); }
  __device__ std::uint64_t length_of_bin(std::uint32_t bin) {
    return team_sum(shared_.low[bin]) + (team_sum(shared_.high[bin]) << 32);
  }

  /// sums[g] = how long the bins of group g are.
  template <class Length>
  __device__ void sum_groups(std::uint64_t (&sums)[kWarp], Length&& length) {
    const std::uint32_t bin = 2 * threadIdx.x;
    const std::uint64_t both = length(bin), sum = warp_sum(both + length(bin + 1));
    if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = sum;
  }

  /// Where a place lies when groups and bins are so long.
  template <class OfGroup, class OfBin>
  __device__ Bin find(OfGroup&& of_group, OfBin&& of_bin, std::uint64_t place) {
    if (threadIdx.x < kWarp) {
      const Bin group = find_lane(of_group(threadIdx.x), place);
      Bin found{kHalfKeys, group.before};
      if (group.number < kWarp) {
        const std::uint32_t bin = group.number * kGroup + 2 * threadIdx.x;
        const std::uint64_t first = of_bin(bin), both = first + of_bin(bin + 1);
        const Bin pair = find_lane(both, place - group.before);
        const std::uint64_t middle = __shfl_sync(~0U, first, static_cast<int>(pair.number));
        const bool second = place - group.before - pair.before >= middle;
        found = {group.number * kGroup + 2 * pair.number + second, group.before + pair.before + (second ? middle : 0)};
      }
      if (threadIdx.x == 0) shared_.found = found;
    }
    __syncthreads();
    const Bin found = shared_.found;
    __syncthreads();
    return found;
  }

  /// The same for bins that are filled by f(key, id) of all tokens with that first half of a key.
  template <class F, class OfBin>
  __device__ Bin search(std::uint32_t first, F&& f, OfBin&& of_bin, std::uint64_t place) {
    shared_.bins[2 * threadIdx.x] = shared_.bins[2 * threadIdx.x + 1] = 0;
    __syncthreads();
    for_each_of(first, f);
    __syncthreads();
    sum_groups(shared_.sums, of_bin);
    __syncthreads();
    return find([&](unsigned group) { return shared_.sums[group]; }, of_bin, place);
  }

  const Part<T>& part_;
  float temperature_, largest_;
  Shared& shared_;
  std::uint32_t* list_;  ///< in each block, by first halves: second half, then 16 bits of the id
  Keys keys_;            ///< of the thread's first eight logits: all, where eight blocks have a row of OPT's
};

}  // namespace nibble
