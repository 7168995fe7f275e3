#include "kernels/cuda/rows.h"

#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear_plain.cuh"
#include "kernels/cuda/norm.cuh"
#include "kernels/dispatch.h"

namespace nibble {
namespace {

constexpr int kThreads = 256;

template <class View, class T>
__global__ void look_up_kernel(View table, const int* indices, const int* chosen, int offset, bool add, int cols,
                               T* y) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  const int index = indices[blockIdx.y];
  const int row = (chosen != nullptr && index < 0 ? chosen[output_before(index)] : index) + offset;
  const int col = blockIdx.x * blockDim.x + threadIdx.x;
  if (col >= cols) return;
  T& place = y[static_cast<std::int64_t>(blockIdx.y) * cols + col];
  const float value = rounded_f32<T>(table.at(row, col));
  place = from_f32<T>(add ? to_f32(place) + value : value);
}

/// One block a row, as the decode path does it.
template <class T, int kTurns>
__global__ void __launch_bounds__(kNormThreads) norm_kernel(const T* x, int cols, NormTask<T> norm) {
  __shared__ Moments scratch[kNormWarps];
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * cols;
  let_next_kernel_start();
  wait_for_previous_kernel();
  normalise_row<kTurns>(
      x + first, cols, norm, scratch, [] {}, [&](int col, const float(&v)[8]) { store8(norm.y + first + col, v); });
}

template <class T>
__global__ void plain_norm_kernel(const T* x, int cols, NormTask<T> norm) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  constexpr float kEpsilon = 1e-5F;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * cols;
  float sum = 0;
  for (int i = threadIdx.x; i < cols; i += 32) sum += to_f32(x[first + i]);
  const float mean = warp_sum(sum) / static_cast<float>(cols);
  float squares = 0;
  for (int i = threadIdx.x; i < cols; i += 32) {
    const float d = to_f32(x[first + i]) - mean;
    squares = fmaf(d, d, squares);
  }
  const float scale = 1.0F / sqrtf(warp_sum(squares) / static_cast<float>(cols) + kEpsilon);
  for (int i = threadIdx.x; i < cols; i += 32) {
    float v = (to_f32(x[first + i]) - mean) * scale;
    if (norm.weight != nullptr) v *= to_f32(norm.weight[i]);
    if (norm.bias != nullptr) v += to_f32(norm.bias[i]);
    norm.y[first + i] = from_f32<T>(v);
  }
}

template <class Unit>
__global__ void gather_kernel(const Unit* x, const int* rows, int cols, Unit* y) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  const int col = blockIdx.x * blockDim.x + threadIdx.x;
  if (col >= cols) return;
  y[static_cast<std::int64_t>(blockIdx.y) * cols + col] = x[static_cast<std::int64_t>(rows[blockIdx.y]) * cols + col];
}

dim3 grid_for(int cols, int rows) {
  return {static_cast<unsigned>((cols + kThreads - 1) / kThreads), static_cast<unsigned>(rows)};
}

}  // namespace

template <class T>
void look_up_rows(const Launch& launch, const Weight& table, const int* indices, const int* chosen, int offset,
                  bool add, Tensor y) {
  with_layout(table, [&](const auto& layout) {
    with_view(layout, [&](const auto& view) {
      launch_overlapped(launch, look_up_kernel<std::decay_t<decltype(view)>, T>, grid_for(y.cols, y.rows), kThreads, 0,
                        view, indices, chosen, offset, add, y.cols, y.row<T>(0));
    });
  });
}

template <class T>
void normalise_rows(const Launch& launch, const LayerNorm& norm, Tensor x, Tensor y) {
  const NormView<T> view(norm, y);
  const NormTask<T> task{view.weight, view.bias, view.y};
  const dim3 grid(static_cast<unsigned>(x.rows));
  if (x.cols % kNormColumns == 0 && x.cols <= kMostNormColumns) {
    with_norm_turns(x.cols, [&]<int kTurns>(std::integral_constant<int, kTurns>) {
      launch_overlapped(launch, norm_kernel<T, kTurns>, grid, kNormThreads, 0, x.row<T>(0), x.cols, task);
    });
  } else {
    launch_overlapped(launch, plain_norm_kernel<T>, grid, 32, 0, x.row<T>(0), x.cols, task);
  }
}

void gather_rows(const Launch& launch, Tensor x, const int* rows, Tensor y) {
  if (size_of(x.dtype) == 4) {
    launch_overlapped(launch, gather_kernel<std::uint32_t>, grid_for(y.cols, y.rows), kThreads, 0,
                      x.row<std::uint32_t>(0), rows, y.cols, y.row<std::uint32_t>(0));
  } else {
    launch_overlapped(launch, gather_kernel<std::uint16_t>, grid_for(y.cols, y.rows), kThreads, 0,
                      x.row<std::uint16_t>(0), rows, y.cols, y.row<std::uint16_t>(0));
  }
}

#define NIBBLE_ROWS(T)                                                                                    \
  template void look_up_rows<T>(const Launch&, const Weight&, const int*, const int*, int, bool, Tensor); \
  template void normalise_rows<T>(const Launch&, const LayerNorm&, Tensor, Tensor);

NIBBLE_ROWS(float)
NIBBLE_ROWS(Half)
NIBBLE_ROWS(BFloat16)

}  // namespace nibble
