// The table of a target's loops where rows of long segments go through tiles. The target says how, before this: with
// use_tiles for the LinearKernels of a layout, and for what else DTypeKernels have.
#pragma once

namespace nibble {
namespace {

template <class T, class... Layouts>
constexpr void use_tiles_for_all(LayoutTable<T, std::variant<Layouts...>>& table) {
  (use_tiles(static_cast<LinearKernels<Layouts, T>&>(table)), ...);
}

constexpr CpuKernels make_kernels_with_tiles() {
  CpuKernels kernels = make_kernels();
  const auto use = [](auto& of_dtype) {
    use_tiles_for_all(of_dtype);
    use_tiles(of_dtype);
  };
  use(static_cast<DTypeKernels<float>&>(kernels));
  use(static_cast<DTypeKernels<Half>&>(kernels));
  use(static_cast<DTypeKernels<BFloat16>&>(kernels));
  return kernels;
}

}  // namespace
}  // namespace nibble
