// Rows of x in lines, as the fused way reads them: [steps][rows][kLineBytes], 64 columns to a line, whose pieces stand
// as hopper.cuh says and whose columns in the order in which lanes' factors meet them.
#pragma once

#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/norm.cuh"
#include "kernels/cuda/tiles.cuh"

namespace nibble {
namespace {

constexpr int kLineThreads = 128;

/// Launches so few blocks that a third one on a multiprocessor finds no room: where those of the kernel before leave
/// one after the other, all of these would stand on the first multiprocessors that are free. More blocks stand as they
/// come.
template <auto kKernel, class... Parameters>
void launch_apart(const Launch& launch, dim3 grid, int threads, const Parameters&... parameters) {
  allow_shared_memory<kKernel>();
  const bool has_room = static_cast<int>(grid.x * grid.y) <= 2 * launch.processors;
  const int shared = has_room ? most_shared_bytes() * 2 / 5 : kNormWarps * int{sizeof(Moments)};
  launch_overlapped(launch, kKernel, grid, threads, shared, parameters...);
}

/// Brings x into the order in which lanes' factors meet its columns. A block does kArrangeRows rows of kArrangeSteps
/// steps; eight threads write a line, each a piece, whose pairs of columns four pieces of x have.
constexpr int kArrangeRows = 4, kArrangeSteps = kLineThreads / 8;
template <int kSteps>
__global__ void __launch_bounds__(kLineThreads) arrange_kernel(const uint4* x, int rows, int steps, uint4* out) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  const int step = static_cast<int>(blockIdx.x) * kArrangeSteps + static_cast<int>(threadIdx.x) / 8;
  const int first_row = static_cast<int>(blockIdx.y) * kArrangeRows, of_line = static_cast<int>(threadIdx.x) % 8;
  if (step >= steps) return;
  uint4 pieces[kArrangeRows];
#pragma unroll
  for (int i = 0; i < kArrangeRows; ++i) {
    const int row = min(first_row + i, rows - 1), piece = of_line ^ row % 8, half = piece / 4, pair = piece % 4;
    const auto* const from =
        reinterpret_cast<const std::uint32_t*>(x + (static_cast<std::int64_t>(row) * steps + step) * 8) + pair;
    const auto word = [&](int t) { return from[4 * (kSteps == 4 ? 2 * t + half : 4 * half + t)]; };
    pieces[i] = {word(0), word(1), word(2), word(3)};
  }
  uint4* const to = out + (static_cast<std::int64_t>(step) * rows + first_row) * 8 + of_line;
#pragma unroll
  for (int i = 0; i < kArrangeRows; ++i) {
    if (first_row + i < rows) to[i * 8] = pieces[i];
  }
}

/// Of four lanes, kApart from one to the next, that have four words each, lane t gets word t of each.
template <int kApart>
__device__ __forceinline__ uint4 deal_out(uint4 v) {
  const auto change = [](bool second, std::uint32_t& a, std::uint32_t& b, int apart) {
    const std::uint32_t other = __shfl_xor_sync(0xffffffffU, second ? a : b, apart);
    (second ? a : b) = other;
  };
  const int t = static_cast<int>(threadIdx.x) / kApart % 4;
  change(t / 2 == 1, v.x, v.z, 2 * kApart), change(t / 2 == 1, v.y, v.w, 2 * kApart);
  change(t % 2 == 1, v.x, v.y, kApart), change(t % 2 == 1, v.z, v.w, kApart);
  return v;
}

/// The same behind LayerNorm, of which a block does a row.
template <class T, int kSteps, int kTurns>
__global__ void __launch_bounds__(kNormThreads)
    arrange_normed_kernel(const T* x, int rows, int cols, NormTask<T> norm, uint4* out) {
  constexpr int kApart = kSteps == 4 ? 2 : 1;  // lanes that have the same place in their pieces' pairs
  extern __shared__ __align__(1024) char shared[];
  auto* const scratch = reinterpret_cast<Moments*>(shared);
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * cols;
  let_next_kernel_start();
  wait_for_previous_kernel();
  normalise_row<kTurns>(
      x + first, cols, norm, scratch, [] {},
      [&](int col, const float(&v)[8]) {
        uint4 piece;
        store8(reinterpret_cast<T*>(&piece), v);
        *reinterpret_cast<uint4*>(norm.y + first + col) = piece;
        const int eight = col / 8, half = kSteps == 4 ? eight % 2 : eight / 4 % 2;
        uint4* const line = out + (std::int64_t{col / kLineColumns} * rows + blockIdx.x) * (kLineBytes / 16);
        line[(4 * half + eight / kApart % 4) ^ static_cast<int>(blockIdx.x % 8)] = deal_out<kApart>(piece);
      });
}

/// Puts rows of x, or of their LayerNorm, in lines. `norm` may be null.
template <int kSteps, class T>
void arrange(const Launch& launch, const NormView<T>* norm, Tensor x, int first_row, int rows, void* out) {
  if (norm != nullptr) {
    const NormTask<T> task{norm->weight, norm->bias, norm->y + static_cast<std::int64_t>(first_row) * x.cols};
    with_norm_turns(x.cols, [&]<int kTurns>(std::integral_constant<int, kTurns>) {
      launch_apart<arrange_normed_kernel<T, kSteps, kTurns>>(launch, dim3(static_cast<unsigned>(rows)), kNormThreads,
                                                             x.row<T>(first_row), rows, x.cols, task,
                                                             static_cast<uint4*>(out));
    });
    return;
  }
  const int steps = x.cols / kLineColumns;
  const dim3 grid(static_cast<unsigned>((steps + kArrangeSteps - 1) / kArrangeSteps),
                  static_cast<unsigned>((rows + kArrangeRows - 1) / kArrangeRows));
  launch_apart<arrange_kernel<kSteps>>(launch, grid, kLineThreads, reinterpret_cast<const uint4*>(x.row<T>(first_row)),
                                       rows, steps, static_cast<uint4*>(out));
}

}  // namespace
}  // namespace nibble
