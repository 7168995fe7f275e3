// Any weight, any shape, one warp for each result: slow, and right for what the other paths do not take. Weights that
// have no whole tiles stand here as they do on a CPU and are read through their layout's own `decode`.
#pragma once

#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear.h"

namespace nibble {

/// A weight in the order of its file, by the layout's View; `at(row, col)` as TileView has it.
template <class Layout>
struct PlainView {
  typename Layout::View view;
  explicit PlainView(const Layout& w) : view(w.view()) {}
  __device__ float at(int row, int col) const { return view.decode(row, col); }
};

/// The levels of a 4-bit layout stay on the host and come as values.
template <class Scale>
struct PlainView<Lut4<Scale>> {
  typename Lut4<Scale>::View view;
  float levels[16];
  explicit PlainView(const Lut4<Scale>& w) : view(w.view()) { std::copy_n(w.levels.template as<float>(), 16, levels); }
  __device__ float at(int row, int col) const {
    const std::int64_t flat = static_cast<std::int64_t>(row) * view.k + col;
    return levels[view.code(flat)] * view.absmax[flat >> view.block_shift];
  }
};

/// Calls f(view) with what reads the weight where it stands.
template <class Layout, class F>
void with_view(const Layout& weight, F&& f) {
  if (is_tiled(weight)) {
    f(TileView<Layout>(weight));
  } else {
    f(PlainView<Layout>(weight));
  }
}

namespace {

template <class View, class T>
__global__ void linear_plain_kernel(View weight, const T* x, int k, int n, Finish<T> finish) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  const int lane = threadIdx.x % 32;
  const int column = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  const std::int64_t row = blockIdx.y;
  if (column >= n) return;
  float sum = 0;
  for (int i = lane; i < k; i += 32) sum = fmaf(weight.at(column, i), to_f32(x[row * k + i]), sum);
  sum = warp_sum(sum);
  if (lane == 0) finish(sum, finish.fetch(column, row * n + column), row * n + column);
}

template <class View, class T>
__global__ void decode_rows_kernel(View weight, int first_row, int k, T* out) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  const int row = blockIdx.y;
  for (int col = blockIdx.x * blockDim.x + threadIdx.x; col < k; col += gridDim.x * blockDim.x) {
    out[static_cast<std::int64_t>(row) * k + col] = from_f32<T>(weight.at(first_row + row, col));
  }
}

}  // namespace

/// Rows [first_row, first_row + rows) of x.
template <class T, class Layout>
void linear_plain(const Launch& launch, Tensor x, int first_row, int rows, const Projection& projection) {
  constexpr int kThreads = 128;
  const int n = projection.y.cols;
  const dim3 grid(static_cast<unsigned>((n + kThreads / 32 - 1) / (kThreads / 32)), static_cast<unsigned>(rows));
  with_view(std::get<Layout>(projection.linear.weight), [&](const auto& view) {
    launch_overlapped(launch, linear_plain_kernel<std::decay_t<decltype(view)>, T>, grid, kThreads, 0, view,
                      x.row<T>(first_row), x.cols, n, Finish<T>(projection, first_row));
  });
}

}  // namespace nibble
