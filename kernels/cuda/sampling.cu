#include "kernels/cuda/sampling.h"

#include "kernels/cuda/launch.h"
#include "kernels/cuda/token_line.cuh"

namespace nibble {
namespace {

/// The likeliest token of the row.
struct Best {
  float value;
  int id;

  /// Larger for larger values, and for lower ids of equal ones.
  __device__ std::uint64_t order() const {
    const std::uint32_t bits = __float_as_uint(value + 0.0F);  // of two zeros as well
    const std::uint32_t flipped = bits ^ (bits >> 31 == 1 ? ~0U : 1U << 31);
    return static_cast<std::uint64_t>(flipped) << 32 | ~static_cast<std::uint32_t>(id);
  }
  __device__ explicit Best(std::uint64_t order) : id(static_cast<int>(~static_cast<std::uint32_t>(order))) {
    const auto flipped = static_cast<std::uint32_t>(order >> 32);
    value = __uint_as_float(flipped ^ (flipped >> 31 == 1 ? 1U << 31 : ~0U));
  }
  __device__ Best(float largest, int place) : value(largest), id(place) {}
};

/// The largest of a warp's, in every lane.
__device__ std::uint64_t warp_largest(std::uint64_t v) {
  const auto high = static_cast<std::uint32_t>(v >> 32);
  const std::uint32_t largest = __reduce_max_sync(~0U, high);
  const std::uint32_t low = __reduce_max_sync(~0U, high == largest ? static_cast<std::uint32_t>(v) : 0);
  return static_cast<std::uint64_t>(largest) << 32 | low;
}

/// `values` become those of the thread's first eight logits.
template <class T>
__device__ Best find_best(const Part& part, float (&values)[kAtOnce], Shared& shared) {
  Best best{-INFINITY, part.first * kAtOnce};
  // From the last to the first: those stay.
  for (int i = part.count / kThreads * kThreads + static_cast<int>(threadIdx.x); i >= 0; i -= kThreads) {
    if (i >= part.count) continue;
    part.load<T>(i, values);
    const int column = (part.first + i) * kAtOnce;
#pragma unroll
    for (int j = kAtOnce - 1; j >= 0; --j) {
      if (values[j] >= best.value) best = {values[j], column + j};
    }
  }
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  std::uint64_t largest = warp_largest(best.order());
  if (lane == 0) shared.sums[warp] = largest;
  __syncthreads();
  if (warp == 0) {
    largest = warp_largest(shared.sums[lane]);
    if (lane < Team::size()) shared.best_inbox.send(shared.bests[Team::rank()], largest, lane);
  }
  shared.best_inbox.wait_for_all();
  return Best(warp_largest(shared.bests[lane % Team::size()]));
}

/// One row a cluster, or a block. All blocks look at their part of it; the first one draws.
template <class T>
__global__ void __launch_bounds__(kThreads)
    choose_kernel(const T* logits, int cols, const DeviceChoice* choices, const int* seen, Chosen chosen) {
  extern __shared__ __align__(16) char memory[];
  auto& shared = *reinterpret_cast<Shared*>(memory);
  shared.open();
  let_next_kernel_start();
  const DeviceChoice choice = choices[blockIdx.y];  // of the batch, not of the kernel before
  const Draw& draw = choice.draw;
  const Layout layout(cols, Team::size());
  const int first = static_cast<int>(Team::rank()) * layout.eights;
  const Part part{logits + static_cast<std::int64_t>(blockIdx.y) * cols,
                  cols,
                  first,
                  max(0, min(layout.eights, (cols + kAtOnce - 1) / kAtOnce - first)),
                  draw.repetition_penalty,
                  reinterpret_cast<std::uint8_t*>(memory + layout.seen)};
  if (threadIdx.x == 0) {
    shared.part = part;
    shared.draw = draw;
  }
  mark_seen(part, seen + choice.seen_begin, draw.repetition_penalty == 1.0F ? 0 : choice.seen_end - choice.seen_begin);
  Inbox::wait_for_team();
  wait_for_previous_kernel();
  float values[kAtOnce] = {};
  const Best best = find_best<T>(part, values, shared);
  int token = best.id;
  if (draw.temperature != 0.0F) {
    TokenLine<T> line(shared, values, {draw.temperature, best.value});
    line.arrange();
    if (Team::rank() == 0) {
      token = draw_from(line, shared.draw);
      line.ask(kNoQuestion);
    } else {
      while (line.answer()) {
      }
    }
  }
  if (Team::rank() == 0 && threadIdx.x == 0) chosen.on_device[blockIdx.y] = chosen.on_host[blockIdx.y] = token;
}

}  // namespace

template <class T>
void choose_tokens(const Launch& launch, Tensor logits, const DeviceChoice* choices, const int* seen, Chosen chosen) {
  constexpr auto kKernel = choose_kernel<T>;
  if (logits.cols > kMostTokens) {
    throw Error(ErrorKind::kUnsupported, "device cuda: expected a vocabulary of at most " +
                                             std::to_string(kMostTokens) + " tokens, found " +
                                             std::to_string(logits.cols));
  }
  const auto rows = static_cast<unsigned>(logits.rows);
  unsigned blocks = has_clusters<kKernel>() ? kMostTeam : 1;
  // Clusters do not reach all multiprocessors, and those that have to wait take twice as long.
  while (blocks > 1 && 4 * blocks * rows > 3 * static_cast<unsigned>(launch.processors)) blocks /= 2;
  allow_shared_memory<kKernel>();
  launch_in_clusters(launch, kKernel, dim3(blocks, rows), blocks, kThreads, Layout(logits.cols, blocks).bytes,
                     logits.row<T>(0), logits.cols, choices, seen, chosen);
}

template void choose_tokens<float>(const Launch&, Tensor, const DeviceChoice*, const int*, Chosen);
template void choose_tokens<Half>(const Launch&, Tensor, const DeviceChoice*, const int*, Chosen);
template void choose_tokens<BFloat16>(const Launch&, Tensor, const DeviceChoice*, const int*, Chosen);

}  // namespace nibble
