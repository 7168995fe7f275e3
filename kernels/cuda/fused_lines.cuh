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
void launch_apart(const Launch& launch, std::int64_t blocks, int threads, const Parameters&... parameters) {
  allow_shared_memory<kKernel>();
  const int shared = blocks <= 2 * launch.processors ? most_shared_bytes() * 2 / 5 : kNormWarps * int{sizeof(Moments)};
  launch_overlapped(launch, kKernel, dim3(static_cast<unsigned>(blocks)), threads, shared, parameters...);
}

/// Brings x into the order in which lanes' factors meet its columns. A thread moves four pieces of a line, whose four
/// pairs of columns it deals out to four others.
template <int kSteps>
__global__ void __launch_bounds__(kLineThreads) arrange_kernel(const uint4* x, int rows, int steps, uint4* out) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  const unsigned i = blockIdx.x * kLineThreads + threadIdx.x;
  const unsigned half = i % 2, step = i / 2 % static_cast<unsigned>(steps), row = i / 2 / static_cast<unsigned>(steps);
  if (row >= static_cast<unsigned>(rows)) return;
  const std::int64_t line = static_cast<std::int64_t>(row) * steps + step;
  std::uint32_t words[4][4];
#pragma unroll
  for (unsigned t = 0; t < 4; ++t) {
    const uint4 piece = x[line * 8 + (kSteps == 4 ? 2 * t + half : 4 * half + t)];
    words[0][t] = piece.x, words[1][t] = piece.y, words[2][t] = piece.z, words[3][t] = piece.w;
  }
  uint4* const to = out + (static_cast<std::int64_t>(step) * rows + row) * 8;
#pragma unroll
  for (unsigned p = 0; p < 4; ++p) {
    to[(4 * half ^ row % 8) ^ p] = {words[p][0], words[p][1], words[p][2], words[p][3]};
  }
}

/// The same behind LayerNorm, of which a block does a row.
template <class T, int kSteps>
__global__ void __launch_bounds__(kNormThreads)
    arrange_normed_kernel(const T* x, int rows, int cols, NormTask<T> norm, std::uint32_t* out) {
  extern __shared__ __align__(1024) char shared[];
  auto* const scratch = reinterpret_cast<Moments*>(shared);
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * cols;
  let_next_kernel_start();
  wait_for_previous_kernel();
  normalise_row<kNormTurns>(
      x + first, cols, norm, norm, scratch, [] {},
      [&](int col, const float(&v)[8]) {
        uint4 piece;
        store8(reinterpret_cast<T*>(&piece), v);
        *reinterpret_cast<uint4*>(norm.y + first + col) = piece;
        const unsigned half = kSteps == 4 ? col / 8 % 2 : col / 32 % 2, word = kSteps == 4 ? col / 16 % 4 : col / 8 % 4;
        std::uint32_t* const line = out + (std::int64_t{col / kLineColumns} * rows + blockIdx.x) * (kLineBytes / 4);
#pragma unroll
        for (int p = 0; p < 4; ++p) line[((4 * half ^ blockIdx.x % 8) ^ p) * 4 + word] = word_at(piece, p);
      });
}

/// Puts rows of x, or of their LayerNorm, in lines. `norm` may be null.
template <int kSteps, class T>
void arrange(const Launch& launch, const NormView<T>* norm, Tensor x, int first_row, int rows, void* out) {
  if (norm != nullptr) {
    const NormTask<T> task{norm->weight, norm->bias, norm->y + static_cast<std::int64_t>(first_row) * x.cols};
    launch_apart<arrange_normed_kernel<T, kSteps>>(launch, rows, kNormThreads, x.row<T>(first_row), rows, x.cols, task,
                                                   static_cast<std::uint32_t*>(out));
    return;
  }
  const int steps = x.cols / kLineColumns;
  const std::int64_t threads = std::int64_t{2} * rows * steps;
  launch_apart<arrange_kernel<kSteps>>(launch, (threads + kLineThreads - 1) / kLineThreads, kLineThreads,
                                       reinterpret_cast<const uint4*>(x.row<T>(first_row)), rows, steps,
                                       static_cast<uint4*>(out));
}

}  // namespace
}  // namespace nibble
