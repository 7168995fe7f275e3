// The line of tokens that kernels/sampling.h speaks of, in the shared memory of a team.
//
// Each block has a part of the row's logits, and sums up its tokens by the first halves of their keys. Then each block
// sums up a part of the bins of all blocks, and sends them to the first one. That one cuts the line and draws: each of
// its warps finds in which bin a place lies, and the first asks all blocks for the tokens in it, by the second halves
// of their keys.
#pragma once

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/team.cuh"
#include "kernels/sampling.h"

namespace nibble {

inline constexpr int kThreads = 1024;
inline constexpr unsigned kWarp = 32;
/// Logits that are read at once; a byte says which have been seen.
inline constexpr int kAtOnce = 8;
/// Bins are halves of keys, or words of bits. Each warp sums up a group of them, two a lane.
inline constexpr unsigned kGroup = kHalfKeys / kWarp;
inline constexpr int kMostTokens = 32 * kHalfKeys;
static_assert(kThreads == kWarp * kWarp && kGroup == 2 * kWarp);

/// A block's part of a row of logits.
struct Part {
  const void* row;  ///< of T
  int cols;
  int first, count;  ///< eights
  float penalty;
  std::uint8_t* seen;  ///< a bit for each logit

  /// Eight penalised logits; those behind the row are not numbers.
  template <class T>
  __device__ void load(int eight, float (&values)[kAtOnce]) const {
    const int column = (first + eight) * kAtOnce;
    const T* logits = static_cast<const T*>(row) + column;
    if (cols % kAtOnce == 0) {
      load8(logits, values);
    } else {
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) values[j] = column + j < cols ? to_f32(logits[j]) : NAN;
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

/// What turns logits into keys: the temperature and the row's largest logit.
struct Scale {
  float temperature, inverse;  ///< 0: not used
  float largest;               ///< divided

  Scale() = default;
  __device__ Scale(float t, float logit)
      : temperature(t),
        inverse(t >= 0x1p-20F && t <= 0x1p20F && fabsf(logit) < 0x1p100F ? 1.0F / t : 0.0F),
        largest(logit / t) {}

  /// logit / temperature, as far as keys tell. A quotient that is off by less than its last place and its remainder,
  /// which is exact, give the rounded one (P. Markstein, "Computation of elementary functions on the IBM RISC
  /// System/6000 processor", 1990); the first step takes it there. Remainders of logits below 2^-102 are not exact, but
  /// those all count as zero; one for which this is no number is too far below the largest.
  __device__ float quotient(float logit) const {
    float quotient = logit * inverse;
    quotient = fmaf(fmaf(-quotient, temperature, logit), inverse, quotient);
    return fmaf(fmaf(-quotient, temperature, logit), inverse, quotient);
  }
};

/// The keys of eight tokens.
struct alignas(16) Keys {
  std::uint32_t of[kAtOnce];

  Keys() = default;
  __device__ Keys(const float (&values)[kAtOnce], Scale scale) {
    const auto fill = [&](auto&& quotient) {
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) of[j] = key_of(quotient(values[j]), scale.largest);
    };
    if (scale.inverse != 0.0F) {
      fill([&](float logit) { return scale.quotient(logit); });
    } else {
      fill([&](float logit) { return logit / scale.temperature; });
    }
  }
};

/// Those of eight logits that have to be read for it: one copy of what many loops call, where few blocks share a row.
template <class T>
__device__ __noinline__ Keys read_keys(const Part& part, int eight, Scale scale) {
  float values[kAtOnce];
  part.load<T>(eight, values);
  return {values, scale};
}

/// What a bin or a group of them has.
struct Sum {
  std::uint64_t length, count;
};

/// How a sum over a bin of first halves is sent: the length of tokens, as far as they are longer than the bin's
/// shortest one can be and in the bin's unit, and above that their count.
struct Packed {
  static constexpr int kLength = 40;

  std::uint32_t least;  ///< units, of the shortest one
  int unit;             ///< of so many bits, which are zero in all lengths of the bin

  /// A little less than the bin's last length: that of a key farther, where exponential() is off by a third of a key.
  __device__ explicit Packed(std::uint32_t bin) : unit(unit_of(bin)) {
    const float scale = __uint_as_float(static_cast<std::uint32_t>(127 + 42 - unit) << 23);
    least = static_cast<std::uint32_t>(exponential(-static_cast<float>(bin + 1) * (kHalfKeys / kKeysOfOne)) * scale);
  }

  /// length_of has 24 bits that are not zero, the last of them of weight 2^(18 - n), where n is largest for the last
  /// key.
  __device__ static int unit_of(std::uint32_t bin) {
    constexpr auto kPowersOfTwo = static_cast<std::uint32_t>(1.44269504 * 0x1p20 * kHalfKeys / kKeysOfOne);
    return max(18 - static_cast<int>(((bin + 1) * kPowersOfTwo + (1U << 19)) >> 20), 0);
  }
  /// Lengths of a bin are not farther from each other than 373,612 units, so that what is left of 8,192 of them has 32
  /// bits: `lengths` may be without higher ones.
  __device__ std::uint64_t pack(std::uint32_t lengths, std::uint32_t count) const {
    return static_cast<std::uint64_t>(count) << kLength | (lengths - count * least);
  }
  __device__ Sum unpack(std::uint64_t sum) const {
    const std::uint64_t count = sum >> kLength;
    return {(count * least + (sum & ((std::uint64_t{1} << kLength) - 1))) << unit, count};
  }
};

/// Those of a thread's two bins.
struct alignas(16) Pair {
  std::uint64_t of[2];
};

struct Bin {
  std::uint32_t number;  ///< kHalfKeys: behind the last one
  std::uint64_t before;
};

/// About the tokens with that first half of a key: how many there are of each second half, in bits from kCount on, and
/// below those the sum of their ids; or who has the key, a bit for each token.
struct Question {
  std::uint32_t first, key;

  __device__ friend bool operator==(Question, Question) = default;
};
inline constexpr std::uint32_t kAnyKey = ~0U;
inline constexpr int kCount = 32;
/// No more are asked: no token is there.
inline constexpr Question kNoQuestion{kHalfKeys - 1, kAnyKey};
/// For the end of top-k, of top-p and of min-p, for a place, for a token; and none.
inline constexpr int kMostQuestions = 6;

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

struct Shared {
  Part part;
  Scale scale;
  Draw draw;
  Keys keys[kThreads];  ///< of the part's first logits: all, where eight blocks have a row of OPT's
  union {
    struct {
      std::uint32_t lengths[kHalfKeys], counts[kHalfKeys];
    } own;                          ///< of this block's tokens, by first halves
    std::uint64_t bins[kHalfKeys];  ///< then, in the first block, packed: of the row's
    Pair pairs[kThreads];           ///< the same
  };
  union {
    Pair parts[kThreads];  ///< what all blocks have in the bins that this one sums up
    std::uint64_t answers[2]
                         [kHalfKeys];  ///< then, in the first block, to every other question: by second halves, or bits
  };
  Question questions[kMostQuestions];
  std::uint64_t sums[kWarp];       ///< of warps
  std::uint64_t bests[kMostTeam];  ///< of the blocks
  Sum groups[2][kWarp];            ///< of bins; of answers

  Inbox best_inbox, part_inbox, bin_inbox, answer_inbox, question_inboxes[kMostQuestions];

  __device__ void open() {
    if (threadIdx.x == 0) {
      for (Inbox* inbox : {&best_inbox, &part_inbox, &bin_inbox, &answer_inbox}) inbox->open();
      for (Inbox& inbox : question_inboxes) inbox.open(), inbox.announce(sizeof(Question));
      best_inbox.announce(Team::size() * sizeof(bests[0]));
      part_inbox.announce(sizeof(parts));
      bin_inbox.announce(sizeof(bins));
    }
    Inbox::come();
    for (int i = threadIdx.x; i < static_cast<int>(kHalfKeys); i += kThreads) {
      own.lengths[i] = own.counts[i] = 0;
      answers[1][i] = 0;
    }
  }

  /// What a bin of the row has, or one of the answers to the `level`-th question.
  __device__ Sum sum_of(int level, std::uint32_t bin) const {
    if (level == 0) return Packed(bin).unpack(bins[bin]);
    const Question question = questions[level - 1];
    const std::uint64_t found = answers[level % 2][bin], count = found >> kCount;
    if (found == 0) return {};  // nearly everywhere
    if (question.key != kAnyKey) return {0, static_cast<std::uint64_t>(__popcll(found))};
    return {count * length_of((question.first << kHalfKey) + bin), count};
  }

  /// By the first warp of the first block.
  __device__ __noinline__ void send(int number, Question question) {
    const unsigned lane = threadIdx.x;
    if (lane == 0) answer_inbox.announce(sum_of(0, question.first).count * sizeof(answers[0][0]));
    if (lane < Team::size()) question_inboxes[number].send(questions[number], question, lane);
  }

  /// By all threads, which meet: sums up all groups.
  __device__ __noinline__ void sum_groups(int level) {
    const Sum first = sum_of(level, 2 * threadIdx.x), second = sum_of(level, 2 * threadIdx.x + 1);
    const Sum sum{warp_sum(first.length + second.length),
                  __reduce_add_sync(~0U, static_cast<std::uint32_t>(first.count + second.count))};
    if (threadIdx.x % kWarp == 0) groups[level != 0][threadIdx.x / kWarp] = sum;
    __syncthreads();
  }

  /// By a warp: the length of so many bins.
  __device__ __noinline__ std::uint64_t length_before(int level, std::uint32_t end) const {
    const unsigned lane = threadIdx.x % kWarp, group = end / kGroup;
    std::uint64_t length = lane < group ? groups[level != 0][lane].length : 0;
    for (std::uint32_t bin = group * kGroup + lane; bin < end; bin += kWarp) length += sum_of(level, bin).length;
    return warp_sum(length);
  }

  /// By a warp: the bin that a place among lengths or counts lies in.
  template <std::uint64_t Sum::*kWhat>
  __device__ __noinline__ Bin find(int level, std::uint64_t place) const {
    const unsigned lane = threadIdx.x % kWarp;
    const Bin group = find_lane(groups[level != 0][lane].*kWhat, place);
    if (group.number == kWarp) return {kHalfKeys, group.before};
    const std::uint32_t bin = group.number * kGroup + 2 * lane;
    const std::uint64_t first = sum_of(level, bin).*kWhat, both = first + sum_of(level, bin + 1).*kWhat;
    const Bin pair = find_lane(both, place - group.before);
    const std::uint64_t middle = __shfl_sync(~0U, first, static_cast<int>(pair.number));
    const bool second = place - group.before - pair.before >= middle;
    return {group.number * kGroup + 2 * pair.number + second, group.before + pair.before + (second ? middle : 0)};
  }
};

/// Where what depends on the vocabulary stands behind that.
struct Layout {
  int eights;  ///< of logits that a block has, in fours
  int seen, bytes;

  __host__ __device__ Layout(int cols, unsigned blocks) {
    const int all = (cols + kAtOnce - 1) / kAtOnce, count = static_cast<int>(blocks);
    eights = ((all + count - 1) / count + 3) / 4 * 4;
    seen = static_cast<int>(sizeof(Shared));
    bytes = seen + eights;
  }
};

/// Marks which of the part's tokens are among `ids`.
__device__ inline void mark_seen(const Part& part, const int* ids, int count) {
  auto* words = reinterpret_cast<unsigned*>(part.seen);
  for (int i = threadIdx.x; i < (part.count + 3) / 4; i += kThreads) words[i] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += kThreads) {
    const int place = ids[i] - part.first * kAtOnce;
    if (place >= 0 && place < part.count * kAtOnce) atomicOr(words + place / 32, 1U << place % 32);
  }
  __syncthreads();
}

template <class T>
class TokenLine {
 public:
  /// `values` are those of the thread's first eight logits.
  __device__ TokenLine(Shared& shared, const float (&values)[kAtOnce], Scale scale) : shared_(shared) {
    shared_.keys[threadIdx.x] = Keys(values, scale);
    if (threadIdx.x == 0) shared_.scale = scale;
  }

  /// By all threads of every block: sums up the row by first halves.
  __device__ void arrange() {
    const std::uint32_t bin = 2 * threadIdx.x;
    const Packed packed[2] = {Packed(bin), Packed(bin + 1)};
    Pair sums = {};
#pragma unroll 1
    for (int begin = 0; begin < shared_.part.count; begin += kThreads) {
      add_lengths(begin + static_cast<int>(threadIdx.x));
      __syncthreads();
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        sums.of[i] += packed[i].pack(shared_.own.lengths[bin + i], shared_.own.counts[bin + i]);
        shared_.own.lengths[bin + i] = shared_.own.counts[bin + i] = 0;
      }
      __syncthreads();
    }
    const unsigned pairs = kThreads / Team::size();  // that a block sums up
    shared_.part_inbox.send(shared_.parts[Team::rank() * pairs + threadIdx.x % pairs], sums, threadIdx.x / pairs);
    shared_.part_inbox.wait_for_all();
    if (threadIdx.x < pairs) {
      sums = {};
#pragma unroll
      for (unsigned rank = 0; rank < kMostTeam; ++rank) {
        if (rank == Team::size()) break;
        const Pair part = shared_.parts[rank * pairs + threadIdx.x];
        sums.of[0] += part.of[0], sums.of[1] += part.of[1];
      }
      shared_.bin_inbox.send(shared_.pairs[Team::rank() * pairs + threadIdx.x], sums);
    }
    if (Team::rank() != 0) return;
    shared_.bin_inbox.wait_for_all();
    shared_.sum_groups(0);
  }

  /// By all threads: waits for a question of the first block and answers it. Returns whether there was one.
  __device__ bool answer() { return answer(*this, ++answered_); }

  // By the first block, whose warps all find the same:

  __device__ void ask(Question question) {
    if (answered_ > 0 && question == shared_.questions[answered_ - 1]) return;
    __syncthreads();  // all have done with the answers before
    if (threadIdx.x < kWarp) shared_.send(answered_, question);
    answer();
  }

  __device__ std::uint32_t key_of_rank(std::uint32_t rank) {
    const Bin first = shared_.find<&Sum::count>(0, rank - 1);
    if (first.number == kHalfKeys) return kKeys - 1;
    ask({first.number, kAnyKey});
    return (first.number << kHalfKey) + shared_.find<&Sum::count>(answered_, rank - 1 - first.before).number;
  }

  __device__ std::uint64_t measure(std::uint32_t keys) {
    const std::uint64_t length = shared_.length_before(0, keys >> kHalfKey);
    if (keys % kHalfKeys == 0) return length;
    ask({keys >> kHalfKey, kAnyKey});
    return length + shared_.length_before(answered_, keys % kHalfKeys);
  }

  __device__ Stand at(std::uint64_t place) {
    const Bin first = shared_.find<&Sum::length>(0, place);
    ask({first.number, kAnyKey});
    const Bin second = shared_.find<&Sum::length>(answered_, place - first.before);
    return {(first.number << kHalfKey) + second.number, first.before + second.before};
  }

  /// Of a key that `at` has found.
  __device__ int token(std::uint32_t key, std::uint32_t skipped) {
    const std::uint64_t found = shared_.answers[answered_ % 2][key % kHalfKeys];
    if (found >> kCount == 1) return static_cast<int>(found);
    ask({key >> kHalfKey, key});
    const Bin word = shared_.find<&Sum::count>(answered_, skipped);
    std::uint64_t bits = shared_.answers[answered_ % 2][word.number];
    for (std::uint64_t i = word.before; i < skipped; ++i) bits &= bits - 1;
    return static_cast<int>(word.number) * 64 + __ffsll(static_cast<std::int64_t>(bits)) - 1;
  }

 private:
  /// One copy of what is called in many places.
  __device__ __noinline__ static bool answer(TokenLine line, int level) {
    Shared& shared = line.shared_;
    shared.question_inboxes[level - 1].wait_for_all();
    const Question question = shared.questions[level - 1];
    if (question == kNoQuestion) return false;
    const bool any = question.key == kAnyKey;
#pragma unroll 1
    for (int i = threadIdx.x; i < shared.part.count; i += kThreads) {
      const Keys keys = line.keys_of(i);
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        if (keys.of[j] >> kHalfKey != question.first) continue;
        const auto id = static_cast<std::uint32_t>((shared.part.first + i) * kAtOnce + j);
        const std::uint64_t one = 1;
        shared.answer_inbox.add(shared.answers[level % 2][any ? keys.of[j] % kHalfKeys : id / 64],
                                any ? one << kCount | id : (keys.of[j] == question.key ? one << id % 64 : 0));
      }
    }
    if (Team::rank() == 0) {
      std::uint64_t* next = shared.answers[(level + 1) % 2] + 2 * threadIdx.x;
      next[0] = next[1] = 0;
      shared.answer_inbox.wait_for_all((level - 1) % 2);
      shared.sum_groups(level);
    }
    return true;
  }

  __device__ Keys keys_of(int eight) const {
    return eight < kThreads ? shared_.keys[eight] : read_keys<T>(shared_.part, eight, shared_.scale);
  }

  __device__ void add_lengths(int eight) {
    if (eight >= shared_.part.count) return;
    const Keys keys = keys_of(eight);
    std::uint32_t lengths[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const std::uint32_t bin = keys.of[j] >> kHalfKey;
      lengths[j] = static_cast<std::uint32_t>(length_of(keys.of[j]) >> Packed::unit_of(bin));
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      if (keys.of[j] >= kKeys) continue;
      atomicAdd(&shared_.own.counts[keys.of[j] >> kHalfKey], 1);
      atomicAdd(&shared_.own.lengths[keys.of[j] >> kHalfKey], lengths[j]);
    }
  }

  Shared& shared_;
  int answered_ = 0;  ///< questions
};

}  // namespace nibble
