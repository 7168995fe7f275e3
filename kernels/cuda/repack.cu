#include "kernels/cuda/repack.h"

#include "kernels/cuda/tiles.cuh"
#include "kernels/dispatch.h"

namespace nibble {
namespace {

constexpr int kThreads = 256;

unsigned blocks_for(std::int64_t items) { return static_cast<unsigned>((items + kThreads - 1) / kThreads); }

/// Pairs of columns, `Pair` a byte of 4-bit codes or two of int8.
template <class Pair>
__global__ void tile_codes_kernel(const Pair* from, int n, int k, int steps, Pair* to) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= static_cast<std::int64_t>(n) * k / 2) return;
  const int row = static_cast<int>(i / (k / 2)), pair = static_cast<int>(i % (k / 2));
  to[place_in_tiles(row, 2 * pair, k, steps)] = from[i];
}

/// A word of four pairs of 4-bit codes, which int4 has in an order of its own.
__global__ void tile_int4_kernel(const std::uint8_t* from, int n, int k, std::uint32_t* to) {
  constexpr int kSteps = TileView<Int4Group<SymmetricZero>>::kSteps;
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= static_cast<std::int64_t>(n) * k / 8) return;
  const int rows = static_cast<int>(i / (k / 4)), cols = static_cast<int>(i % (k / 4)) * 4;  // rows g and g + 8
  const int row = rows / 8 * kTileRows + rows % 8;
  std::uint32_t word = 0;
  for (int pair = 0; pair < 4; ++pair) {
    const int r = row + pair % 2 * 8, c = cols + pair / 2 * 2;
    const std::uint32_t byte = from[(static_cast<std::int64_t>(r) * k + c) / 2];
    word |= (byte >> 4) << (4 * pair) | (byte & 15) << (4 * pair + 16);
  }
  to[place_in_tiles(row, cols, k, kSteps) / 4] = word;
}

template <class Absmax>
__global__ void tile_absmax_kernel(const Absmax* from, int n, int blocks, Absmax* to) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= static_cast<std::int64_t>(n) * blocks) return;
  to[place_of_absmax(static_cast<int>(i / blocks), static_cast<int>(i % blocks), blocks)] = from[i];
}

template <class Pair>
Buffer tiled_codes(const Buffer& codes, int n, int k, int steps, DeviceMemory& memory) {
  const std::byte* from = memory.stage(codes);
  Buffer to = memory.allocate(codes.size());
  tile_codes_kernel<<<blocks_for(static_cast<std::int64_t>(n) * k / 2), kThreads, 0, memory.stream()>>>(
      reinterpret_cast<const Pair*>(from), n, k, steps, to.mutable_as<Pair>());
  check(cudaGetLastError(), "arranging codes");
  return to;
}

Buffer tiled_int4(const Buffer& codes, int n, int k, DeviceMemory& memory) {
  const std::byte* from = memory.stage(codes);
  Buffer to = memory.allocate(codes.size());
  tile_int4_kernel<<<blocks_for(static_cast<std::int64_t>(n) * k / 8), kThreads, 0, memory.stream()>>>(
      reinterpret_cast<const std::uint8_t*>(from), n, k, to.mutable_as<std::uint32_t>());
  check(cudaGetLastError(), "arranging codes");
  return to;
}

template <class Absmax>
Buffer tiled_absmax(const Buffer& absmax, int n, int blocks, DeviceMemory& memory) {
  const std::byte* from = memory.stage(absmax);
  Buffer to = memory.allocate(absmax.size());
  tile_absmax_kernel<<<blocks_for(static_cast<std::int64_t>(n) * blocks), kThreads, 0, memory.stream()>>>(
      reinterpret_cast<const Absmax*>(from), n, blocks, to.mutable_as<Absmax>());
  check(cudaGetLastError(), "arranging absmax values");
  return to;
}

F32Scale upload(const F32Scale& scale, DeviceMemory& memory) { return {memory.upload(scale.absmax)}; }
F32Scale tile(const F32Scale& scale, int n, int blocks, DeviceMemory& memory) {
  return {tiled_absmax<float>(scale.absmax, n, blocks, memory)};
}

NestedScale upload(const NestedScale& scale, DeviceMemory& memory) {
  return {memory.upload(scale.absmax), memory.upload(scale.nested_absmax), memory.upload_table(scale.nested_table),
          scale.offset};
}
NestedScale tile(const NestedScale& scale, int n, int blocks, DeviceMemory& memory) {
  return {tiled_absmax<std::uint8_t>(scale.absmax, n, blocks, memory), memory.upload(scale.nested_absmax),
          memory.upload_table(scale.nested_table), scale.offset};
}

SymmetricZero upload(const SymmetricZero&, DeviceMemory&) { return {}; }
SymmetricZero tile(const SymmetricZero&, int, int, DeviceMemory&) { return {}; }

ZeroPoints upload(const ZeroPoints& zero, DeviceMemory& memory) { return {memory.upload(zero.zeros)}; }
ZeroPoints tile(const ZeroPoints& zero, int n, int groups, DeviceMemory& memory) {
  return {tiled_absmax<std::uint8_t>(zero.zeros, n, groups, memory)};
}

template <class T>
Weight convert(const Dense<T>& w, DeviceMemory& memory) {
  return Dense<T>{memory.upload(w.values), w.n, w.k};
}

Weight convert(const Int8Row& w, DeviceMemory& memory) {
  Buffer codes = is_tiled(w) ? tiled_codes<std::uint16_t>(w.codes, w.n, w.k, TileView<Int8Row>::kSteps, memory)
                             : memory.upload(w.codes);
  return Int8Row{std::move(codes), memory.upload(w.scb), w.n, w.k};
}

/// The sixteen levels stay on the host: kernels are given them as values.
template <class Scale>
Weight convert(const Lut4<Scale>& w, DeviceMemory& memory) {
  if (!is_tiled(w)) {
    return Lut4<Scale>{memory.upload(w.codes), w.levels, upload(w.scale, memory), w.blocksize, w.n, w.k};
  }
  return Lut4<Scale>{tiled_codes<std::uint8_t>(w.codes, w.n, w.k, TileView<Lut4<Scale>>::kSteps, memory),
                     w.levels,
                     tile(w.scale, w.n, w.k / w.blocksize, memory),
                     w.blocksize,
                     w.n,
                     w.k};
}

template <class Zero>
Weight convert(const Int4Group<Zero>& w, DeviceMemory& memory) {
  if (!is_tiled(w)) {
    return Int4Group<Zero>{
        memory.upload(w.codes), memory.upload(w.scales), upload(w.zero, memory), w.group_size, w.n, w.k};
  }
  return Int4Group<Zero>{tiled_int4(w.codes, w.n, w.k, memory),
                         tiled_absmax<Half>(w.scales, w.n, w.groups(), memory),
                         tile(w.zero, w.n, w.groups(), memory),
                         w.group_size,
                         w.n,
                         w.k};
}

}  // namespace

Weight to_device(const Weight& weight, DeviceMemory& memory) {
  Weight result = with_layout(weight, [&](const auto& layout) { return convert(layout, memory); });
  memory.finish();
  return result;
}

}  // namespace nibble
