// Attention in three kernels. One row a sequence: the cache is read once, at the speed of memory, each head's keys cut
// into splits that blocks share (arXiv:2311.01282); the block that finishes a head last combines its splits, in their
// order. More rows: tiles of 64 queries and 64 keys on the tensor cores with a running softmax (arXiv:2307.08691),
// probabilities rounded to T once, as transformers does. Everything else, fp32 and odd head sizes: one warp a query.
#include "kernels/cuda/attention.h"

#include "kernels/cuda/launch.h"

namespace nibble {
namespace {

template <class T>
struct AttendTask {
  const T *q, *k, *v;  ///< [rows, heads * head_dim]
  T *keys, *values;    ///< this layer's part of the cache, [sequences, heads, context, head_dim]
  T* y;                ///< [rows, heads * head_dim]
  int heads, head_dim, context;
  DeviceBatch batch;

  __device__ std::int64_t cached(int sequence, int head) const {
    return (static_cast<std::int64_t>(sequence) * heads + head) * context * head_dim;
  }
  __device__ std::int64_t row(int r, int head) const {
    return static_cast<std::int64_t>(r) * heads * head_dim + head * head_dim;
  }
};

// ---- one row a sequence

constexpr int kDecodeThreads = 256;

/// Eight consecutive numbers of a key or a value, as they are stored.
template <class T>
struct Eight {
  uint4 words[sizeof(T) / 2];

  __device__ __forceinline__ void load(const T* p) {
#pragma unroll
    for (std::size_t i = 0; i < sizeof(T) / 2; ++i) words[i] = reinterpret_cast<const uint4*>(p)[i];
  }
  __device__ __forceinline__ void store(T* p) const {
#pragma unroll
    for (std::size_t i = 0; i < sizeof(T) / 2; ++i) reinterpret_cast<uint4*>(p)[i] = words[i];
  }
  __device__ __forceinline__ float dot(const float (&q)[8]) const {
    float v[8], sum = 0;
    load8(reinterpret_cast<const T*>(words), v);
#pragma unroll
    for (int d = 0; d < 8; ++d) sum = fmaf(q[d], v[d], sum);
    return sum;
  }
  __device__ __forceinline__ void add_to(float (&mix)[8], float weight) const {
    float v[8];
    load8(reinterpret_cast<const T*>(words), v);
#pragma unroll
    for (int d = 0; d < 8; ++d) mix[d] = fmaf(weight, v[d], mix[d]);
  }
};

/// A partial softmax: the largest score, the sum of exponentials relative to it, and the mix of values.
struct Partial {
  float largest, sum;
};

/// What a partial result is multiplied by where the largest score turns out to be `larger`.
__device__ __forceinline__ float factor_of(float largest, float larger) {
  return largest == -INFINITY ? 0.0F : __expf(largest - larger);
}

/// How far apart splits' partial results stand: head_dim numbers and a Partial, in floats.
__host__ __device__ inline int partial_pitch(int head_dim) { return head_dim + 2; }

template <class T, int kLanes>
__global__ void __launch_bounds__(kDecodeThreads, sizeof(T) == 2 ? 2 : 1)
    attend_one_kernel(const __grid_constant__ AttendTask<T> task, AttentionScratch scratch) {
  constexpr int kGroups = kDecodeThreads / kLanes;  // keys at once
  constexpr int kUnroll = 4;
  // The batch and the keys of earlier steps were there before the kernel that this one waits for.
  let_next_kernel_start();
  const Segment segment = task.batch.segments[blockIdx.z];
  const int keys = segment.past + 1;
  const int first = blockIdx.y * kSplitKeys;
  const bool idle = segment.rows != 1 || first >= keys;
  const int last = idle ? first : min(first + kSplitKeys, keys);
  const int head = blockIdx.x;
  const int group = threadIdx.x / kLanes;
  const int dim = threadIdx.x % kLanes * 8;
  const bool active = dim < task.head_dim;
  const std::int64_t own = task.row(segment.first_row, head) + dim;
  const std::int64_t place = task.cached(segment.sequence, head) + dim;

  // Keys in turns of `kTurn`: while one turn is computed the next is on its way from the second-level cache, where the
  // whole split has been asked for.
  constexpr int kTurn = kGroups * kUnroll;
  struct Turn {
    Eight<T> k[kUnroll], v[kUnroll];
  };
  const auto place_of = [&](int key) { return place + static_cast<std::int64_t>(key) * task.head_dim; };
  const auto fetch = [&](int begin, Turn& turn) {
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const int key = begin + group + i * kGroups;
      if (!active || key >= last || key == segment.past) continue;
      turn.k[i].load(task.keys + place_of(key));
      turn.v[i].load(task.values + place_of(key));
    }
  };
  Turn turns[2];
  fetch(first, turns[0]);
  if (dim % 64 == 0 && active) {
    for (int key = first + kTurn + group; key < last; key += kGroups) {
      prefetch_line(task.keys + place_of(key));
      prefetch_line(task.values + place_of(key));
    }
  }
  wait_for_previous_kernel();
  if (idle) return;
  float q[8] = {};
  if (active) load8(task.q + own, q);
  float largest = -INFINITY, sum = 0;
  float mix[8] = {};
  const auto attend = [&](int begin, Turn& turn) {
    const int base = begin + group;
    float score[kUnroll];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      if (!active || base + i * kGroups != segment.past) continue;
      turn.k[i].load(task.k + own), turn.v[i].load(task.v + own);
      turn.k[i].store(task.keys + place_of(segment.past)), turn.v[i].store(task.values + place_of(segment.past));
    }
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const bool there = active && base + i * kGroups < last;
      float dot = there ? turn.k[i].dot(q) : 0.0F;
#pragma unroll
      for (int step = kLanes / 2; step > 0; step /= 2) dot += __shfl_xor_sync(0xffffffffU, dot, step);
      score[i] = base + i * kGroups < last ? dot : -INFINITY;
    }
    float larger = largest;
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) larger = fmaxf(larger, score[i]);
    const float origin = larger == -INFINITY ? 0.0F : larger;  // a group without keys yet
    const float shrink = __expf(largest - origin);
    largest = larger;
    sum *= shrink;
#pragma unroll
    for (float& m : mix) m *= shrink;
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const float weight = __expf(score[i] - origin);
      sum += weight;
      if (active && base + i * kGroups < last) turn.v[i].add_to(mix, weight);
    }
  };
  for (int begin = first; begin < last; begin += 2 * kTurn) {
    fetch(begin + kTurn, turns[1]);
    attend(begin, turns[0]);
    if (begin + kTurn >= last) break;
    fetch(begin + 2 * kTurn, turns[0]);
    attend(begin + kTurn, turns[1]);
  }

  // The groups of a warp meet, then the warps, always in the same order.
#pragma unroll
  for (int step = kLanes; step < 32; step *= 2) {
    const Partial other{__shfl_xor_sync(0xffffffffU, largest, step), __shfl_xor_sync(0xffffffffU, sum, step)};
    const float larger = fmaxf(largest, other.largest);
    const float mine = factor_of(largest, larger), theirs = factor_of(other.largest, larger);
    largest = larger;
    sum = sum * mine + other.sum * theirs;
#pragma unroll
    for (float& m : mix) m = m * mine + __shfl_xor_sync(0xffffffffU, m, step) * theirs;
  }
  constexpr int kWarps = kDecodeThreads / 32;
  __shared__ float parts[kWarps][kLanes * 8];
  __shared__ Partial of_warp[kWarps];
  const int warp = threadIdx.x / 32;
  if (threadIdx.x % 32 < kLanes) {
#pragma unroll
    for (int d = 0; d < 8; ++d) parts[warp][dim + d] = mix[d];
  }
  if (threadIdx.x % 32 == 0) of_warp[warp] = {largest, sum};
  __syncthreads();
  Partial whole{-INFINITY, 0};
#pragma unroll
  for (const Partial& p : of_warp) whole.largest = fmaxf(whole.largest, p.largest);
  float factor[kWarps];
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    factor[w] = factor_of(of_warp[w].largest, whole.largest);
    whole.sum = fmaf(of_warp[w].sum, factor[w], whole.sum);
  }
  const auto mixed = [&](int d) {
    float value = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) value = fmaf(parts[w][d], factor[w], value);
    return value;
  };

  T* const y = task.y + task.row(segment.first_row, head);
  const int splits = (keys + kSplitKeys - 1) / kSplitKeys;
  if (splits == 1) {
    for (int d = threadIdx.x; d < task.head_dim; d += kDecodeThreads) y[d] = from_f32<T>(mixed(d) / whole.sum);
    return;
  }
  const int pitch = partial_pitch(task.head_dim);
  const std::int64_t strip = static_cast<std::int64_t>(blockIdx.z) * task.heads + head;
  float* const mine = scratch.partial + (strip * gridDim.y + blockIdx.y) * pitch;
  for (int d = threadIdx.x; d < task.head_dim; d += kDecodeThreads) mine[d] = mixed(d);
  if (threadIdx.x == 0) mine[task.head_dim] = whole.largest, mine[task.head_dim + 1] = whole.sum;
  __threadfence();
  __syncthreads();
  __shared__ bool is_last;
  if (threadIdx.x == 0) {
    is_last = atomicAdd(scratch.arrived + strip, 1) == splits - 1;
    if (is_last) scratch.arrived[strip] = 0;
  }
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  const float* const all = scratch.partial + strip * gridDim.y * pitch;
  float most = -INFINITY, total = 0;
  for (int s = 0; s < splits; ++s) most = fmaxf(most, __ldcg(all + s * pitch + task.head_dim));
  for (int s = 0; s < splits; ++s) {
    total = fmaf(__ldcg(all + s * pitch + task.head_dim + 1), __expf(__ldcg(all + s * pitch + task.head_dim) - most),
                 total);
  }
  for (int d = threadIdx.x; d < task.head_dim; d += kDecodeThreads) {
    float value = 0;
    for (int s = 0; s < splits; ++s) {
      value = fmaf(__ldcg(all + s * pitch + d), __expf(__ldcg(all + s * pitch + task.head_dim) - most), value);
    }
    y[d] = from_f32<T>(value / total);
  }
}

// ---- more rows a sequence

/// Copies rows of k and v of longer segments, or of all, to where the cache keeps each head's.
template <class T>
__global__ void append_kernel(const __grid_constant__ AttendTask<T> task) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  const int row = blockIdx.x;
  const int width = task.heads * task.head_dim;
  for (int i = threadIdx.x; i < width; i += blockDim.x) {
    const std::int64_t place = task.cached(task.batch.sequence_of[row], i / task.head_dim) +
                               static_cast<std::int64_t>(task.batch.slot_of[row]) * task.head_dim + i % task.head_dim;
    const std::int64_t from = static_cast<std::int64_t>(row) * width + i;
    task.keys[place] = task.k[from];
    task.values[place] = task.v[from];
  }
}

constexpr int kTileQueries = 64, kTileKeys = 64;

/// Sums of 16 queries and 64 keys, or 16 queries and the head's dims.
template <int kColumns>
using Strip = float[kColumns / 8][4];

template <class T, int kHeadDim>
__global__ void __launch_bounds__(128) attend_tiles_kernel(const __grid_constant__ AttendTask<T> task) {
  constexpr int kPitch = kHeadDim + 8;  // in T; shifts the banks of neighbouring rows
  constexpr int kChunks = kHeadDim / 8;
  extern __shared__ __align__(128) char shared[];
  T* const keys_tile = reinterpret_cast<T*>(shared);          // [2][kTileKeys][kPitch]
  T* const values_tile = keys_tile + 2 * kTileKeys * kPitch;  // [2][kTileKeys][kPitch]
  let_next_kernel_start();
  wait_for_previous_kernel();
  const Segment segment = task.batch.segments[blockIdx.z];
  // The last queries see the most keys and come first.
  const int tiles = (segment.rows + kTileQueries - 1) / kTileQueries;
  const int tile = tiles - 1 - static_cast<int>(blockIdx.x);
  if (segment.rows == 1 || tile < 0) return;
  const int head = blockIdx.y;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int first_query = tile * kTileQueries;
  const std::int64_t place = task.cached(segment.sequence, head);
  const int keys = segment.past + min(first_query + kTileQueries, segment.rows);

  // Queries pass through the room of the first keys.
  for (int i = threadIdx.x; i < kTileQueries * kChunks; i += 128) {
    const int row = i / kChunks, chunk = i % kChunks;
    const bool there = first_query + row < segment.rows;
    copy_async(keys_tile + row * kPitch + chunk * 8,
               task.q + task.row(segment.first_row + (there ? first_query + row : 0), head) + chunk * 8, there);
  }
  commit_copies();
  wait_for_copies<0>();
  __syncthreads();
  std::uint32_t q[kHeadDim / 16][4];
#pragma unroll
  for (int d = 0; d < kHeadDim / 16; ++d) {
    load_matrices(q[d], keys_tile + (warp * 16 + lane % 16) * kPitch + d * 16 + lane / 16 * 8);
  }
  __syncthreads();

  const auto fetch = [&](int begin, int turn) {
    for (int i = threadIdx.x; i < kTileKeys * kChunks; i += 128) {
      const int row = i / kChunks, chunk = i % kChunks;
      const bool there = begin + row < keys;
      const std::int64_t at = place + static_cast<std::int64_t>(there ? begin + row : 0) * kHeadDim + chunk * 8;
      copy_async(keys_tile + (turn * kTileKeys + row) * kPitch + chunk * 8, task.keys + at, there);
      copy_async(values_tile + (turn * kTileKeys + row) * kPitch + chunk * 8, task.values + at, there);
    }
    commit_copies();
  };

  // Rows g and g + 8 of the warp's sixteen.
  const int seen_upper = segment.past + first_query + warp * 16 + lane / 4 + 1;
  float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
  Strip<kHeadDim> mix = {};
  fetch(0, 0);
  for (int begin = 0, turn = 0; begin < keys; begin += kTileKeys, turn ^= 1) {
    if (begin + kTileKeys < keys) {
      fetch(begin + kTileKeys, turn ^ 1);
      wait_for_copies<1>();
    } else {
      wait_for_copies<0>();
    }
    __syncthreads();
    const T* const k = keys_tile + turn * kTileKeys * kPitch;
    const T* const v = values_tile + turn * kTileKeys * kPitch;

    Strip<kTileKeys> scores = {};
#pragma unroll
    for (int n = 0; n < kTileKeys / 16; ++n) {
#pragma unroll
      for (int d = 0; d < kHeadDim / 16; ++d) {
        std::uint32_t b[4];  // keys 16 n .. + 8: 0 and 1, + 8 .. + 16: 2 and 3
        load_matrices(b, k + (n * 16 + lane / 16 * 8 + lane % 8) * kPitch + d * 16 + lane / 8 % 2 * 8);
        mma<T>(scores[2 * n], q[d], b[0], b[1]);
        mma<T>(scores[2 * n + 1], q[d], b[2], b[3]);
      }
    }
#pragma unroll
    for (int n = 0; n < kTileKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int key = begin + n * 8 + lane % 4 * 2 + i % 2;
        if (key >= seen_upper + i / 2 * 8) scores[n][i] = -INFINITY;
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float larger = largest[half];
#pragma unroll
      for (int n = 0; n < kTileKeys / 8; ++n)
        larger = fmaxf(larger, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
      larger = fmaxf(larger, __shfl_xor_sync(0xffffffffU, larger, 1));
      larger = fmaxf(larger, __shfl_xor_sync(0xffffffffU, larger, 2));
      const float shrink = __expf(largest[half] - larger);  // every row sees the first key, so `larger` is finite
      largest[half] = larger;
      sum[half] *= shrink;
#pragma unroll
      for (int d = 0; d < kHeadDim / 8; ++d) mix[d][2 * half] *= shrink, mix[d][2 * half + 1] *= shrink;
#pragma unroll
      for (int n = 0; n < kTileKeys / 8; ++n) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          scores[n][i] = __expf(scores[n][i] - larger);
          sum[half] += scores[n][i];
        }
      }
    }
#pragma unroll
    for (int n = 0; n < kTileKeys / 16; ++n) {
      const std::uint32_t p[4] = {
          pack2<T>(scores[2 * n][0], scores[2 * n][1]), pack2<T>(scores[2 * n][2], scores[2 * n][3]),
          pack2<T>(scores[2 * n + 1][0], scores[2 * n + 1][1]), pack2<T>(scores[2 * n + 1][2], scores[2 * n + 1][3])};
#pragma unroll
      for (int d = 0; d < kHeadDim / 16; ++d) {
        std::uint32_t b[4];  // dims 16 d .. + 8: 0 and 1, + 8 .. + 16: 2 and 3
        load_matrices_transposed(b, v + (n * 16 + lane % 16) * kPitch + d * 16 + lane / 16 * 8);
        mma<T>(mix[2 * d], p, b[0], b[1]);
        mma<T>(mix[2 * d + 1], p, b[2], b[3]);
      }
    }
    __syncthreads();
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    sum[half] += __shfl_xor_sync(0xffffffffU, sum[half], 1);
    sum[half] += __shfl_xor_sync(0xffffffffU, sum[half], 2);
    const int row = first_query + warp * 16 + lane / 4 + half * 8;
    if (row >= segment.rows) continue;
    T* const y = task.y + task.row(segment.first_row + row, head) + lane % 4 * 2;
    const float scale = 1.0F / sum[half];
#pragma unroll
    for (int d = 0; d < kHeadDim / 8; ++d) {
      *reinterpret_cast<std::uint32_t*>(y + d * 8) = pack2<T>(mix[d][2 * half] * scale, mix[d][2 * half + 1] * scale);
    }
  }
}

// ---- any

constexpr int kMostPlainDims = kMostHeadDim / 32;  // a lane's share of a head

template <class T>
__global__ void attend_plain_kernel(const __grid_constant__ AttendTask<T> task) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  const int lane = threadIdx.x;
  const int row = blockIdx.x, head = blockIdx.y;
  const int sequence = task.batch.sequence_of[row];
  const int keys = task.batch.slot_of[row] + 1;
  const std::int64_t place = task.cached(sequence, head);
  float q[kMostPlainDims], mix[kMostPlainDims] = {};
#pragma unroll
  for (int i = 0; i < kMostPlainDims; ++i) {
    const int d = lane + 32 * i;
    q[i] = d < task.head_dim ? to_f32(task.q[task.row(row, head) + d]) : 0.0F;
  }
  float largest = -INFINITY, sum = 0;
  for (int key = 0; key < keys; ++key) {
    const T* const k = task.keys + place + static_cast<std::int64_t>(key) * task.head_dim;
    const T* const v = task.values + place + static_cast<std::int64_t>(key) * task.head_dim;
    float dot = 0;
#pragma unroll
    for (int i = 0; i < kMostPlainDims; ++i) {
      const int d = lane + 32 * i;
      if (d < task.head_dim) dot = fmaf(q[i], to_f32(k[d]), dot);
    }
    const float score = warp_sum(dot);
    const float larger = fmaxf(largest, score);
    const float shrink = expf(largest - larger), weight = expf(score - larger);
    largest = larger;
    sum = fmaf(sum, shrink, weight);
#pragma unroll
    for (int i = 0; i < kMostPlainDims; ++i) {
      const int d = lane + 32 * i;
      if (d < task.head_dim) mix[i] = fmaf(weight, to_f32(v[d]), mix[i] * shrink);
    }
  }
#pragma unroll
  for (int i = 0; i < kMostPlainDims; ++i) {
    const int d = lane + 32 * i;
    if (d < task.head_dim) task.y[task.row(row, head) + d] = from_f32<T>(mix[i] / sum);
  }
}

template <class T, int kHeadDim>
void launch_tiles(const Launch& launch, const BatchShape& shape, const AttendTask<T>& task) {
  constexpr int kShared = 4 * kTileKeys * (kHeadDim + 8) * static_cast<int>(sizeof(T));
  constexpr auto kKernel = attend_tiles_kernel<T, kHeadDim>;
  allow_shared_memory<kKernel>();
  const dim3 grid(static_cast<unsigned>((shape.longest + kTileQueries - 1) / kTileQueries),
                  static_cast<unsigned>(task.heads), static_cast<unsigned>(shape.segments));
  launch_overlapped(launch, kKernel, grid, 128, kShared, task);
}

int splits_of(int keys) { return (keys + kSplitKeys - 1) / kSplitKeys; }

template <class T, int kLanes>
void launch_one(const Launch& launch, const BatchShape& shape, const AttendTask<T>& task,
                const AttentionScratch& scratch) {
  const dim3 grid(static_cast<unsigned>(task.heads), static_cast<unsigned>(splits_of(shape.keys)),
                  static_cast<unsigned>(shape.segments));
  launch_overlapped(launch, attend_one_kernel<T, kLanes>, grid, kDecodeThreads, 0, task, scratch);
}

}  // namespace

std::size_t attention_partial_bytes(int sequences, int width, int context) {
  // A head has at least one number, so there are at most `width` heads with two more numbers each.
  return static_cast<std::size_t>(sequences) * static_cast<std::size_t>(splits_of(context)) *
         static_cast<std::size_t>(3 * width) * sizeof(float);
}

template <class T>
void attend_on_device(const Launch& launch, const DeviceBatch& batch, const BatchShape& shape, Tensor q, Tensor k,
                      Tensor v, int layer, const KvCache& cache, const AttentionScratch& scratch, Tensor y) {
  const std::int64_t place = cache.offset(layer, 0, 0);
  const AttendTask<T> task{q.row<T>(0),
                           k.row<T>(0),
                           v.row<T>(0),
                           const_cast<T*>(cache.keys.as<T>()) + place,
                           const_cast<T*>(cache.values.as<T>()) + place,
                           y.row<T>(0),
                           cache.heads,
                           cache.head_dim,
                           cache.context,
                           batch};
  const int head_dim = cache.head_dim;
  const bool vectors = head_dim % 8 == 0 && head_dim <= 256;
  const bool tiles = sizeof(T) == 2 && (head_dim == 64 || head_dim == 80 || head_dim == 96 || head_dim == 128);
  const bool plain = !vectors || (shape.any_longer && !tiles);
  if (plain || shape.any_longer) {
    launch_overlapped(launch, append_kernel<T>, dim3(static_cast<unsigned>(shape.rows)), 256, 0, task);
  }
  if (plain) {
    const dim3 grid(static_cast<unsigned>(shape.rows), static_cast<unsigned>(cache.heads));
    launch_overlapped(launch, attend_plain_kernel<T>, grid, 32, 0, task);
    return;
  }
  if (shape.any_single) {
    if (head_dim <= 64) {
      launch_one<T, 8>(launch, shape, task, scratch);
    } else if (head_dim <= 128) {
      launch_one<T, 16>(launch, shape, task, scratch);
    } else {
      launch_one<T, 32>(launch, shape, task, scratch);
    }
  }
  if constexpr (sizeof(T) == 2) {
    if (!shape.any_longer) return;
    switch (head_dim) {
      case 64:
        return launch_tiles<T, 64>(launch, shape, task);
      case 80:
        return launch_tiles<T, 80>(launch, shape, task);
      case 96:
        return launch_tiles<T, 96>(launch, shape, task);
      default:
        return launch_tiles<T, 128>(launch, shape, task);
    }
  }
}

template void attend_on_device<float>(const Launch&, const DeviceBatch&, const BatchShape&, Tensor, Tensor, Tensor, int,
                                      const KvCache&, const AttentionScratch&, Tensor);
template void attend_on_device<Half>(const Launch&, const DeviceBatch&, const BatchShape&, Tensor, Tensor, Tensor, int,
                                     const KvCache&, const AttentionScratch&, Tensor);
template void attend_on_device<BFloat16>(const Launch&, const DeviceBatch&, const BatchShape&, Tensor, Tensor, Tensor,
                                         int, const KvCache&, const AttentionScratch&, Tensor);

}  // namespace nibble
