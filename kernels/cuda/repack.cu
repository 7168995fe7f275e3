#include "kernels/cuda/repack.h"

#include "kernels/cuda/arrange.cuh"
#include "kernels/cuda/encode.h"
#include "kernels/dispatch.h"

namespace nibble {
namespace {

/// Pairs of columns, `Pair` a byte of 4-bit codes or two of int8.
template <class Pair>
Buffer tiled_codes(const Buffer& codes, int k, int steps, DeviceMemory& memory) {
  return arranged<Pair>(codes, CodePlace{k, steps}, memory);
}

F32Scale upload(const F32Scale& scale, DeviceMemory& memory) { return {memory.upload(scale.absmax)}; }
F32Scale tile(const F32Scale& scale, int blocks, DeviceMemory& memory) {
  return {arranged<float>(scale.absmax, AbsmaxPlace{blocks}, memory)};
}

NestedScale upload(const NestedScale& scale, DeviceMemory& memory) {
  return {memory.upload(scale.absmax), memory.upload(scale.nested_absmax), memory.upload_table(scale.nested_table),
          scale.offset};
}
NestedScale tile(const NestedScale& scale, int blocks, DeviceMemory& memory) {
  return {arranged<std::uint8_t>(scale.absmax, AbsmaxPlace{blocks}, memory), memory.upload(scale.nested_absmax),
          memory.upload_table(scale.nested_table), scale.offset};
}

SymmetricZero upload(const SymmetricZero&, DeviceMemory&) { return {}; }
SymmetricZero tile(const SymmetricZero&, int, DeviceMemory&) { return {}; }

ZeroPoints upload(const ZeroPoints& zero, DeviceMemory& memory) { return {memory.upload(zero.zeros)}; }
ZeroPoints tile(const ZeroPoints& zero, int groups, DeviceMemory& memory) {
  return {arranged<std::uint8_t>(zero.zeros, AbsmaxPlace{groups}, memory)};
}

template <std::derived_from<Int8Row> Int8>
Weight convert(const Int8& w, DeviceMemory& memory) {
  Buffer codes = is_tiled(w) ? tiled_codes<std::uint16_t>(w.codes, w.k, TileView<Int8Row>::kSteps, memory)
                             : memory.upload(w.codes);
  return Int8{Int8Row{std::move(codes), memory.upload(w.scb), w.n, w.k}};
}

/// The sixteen levels stay on the host: kernels are given them as values.
template <class Scale>
Weight convert(const Lut4<Scale>& w, DeviceMemory& memory) {
  if (!is_tiled(w)) {
    return Lut4<Scale>{memory.upload(w.codes), w.levels, upload(w.scale, memory), w.blocksize, w.n, w.k};
  }
  return Lut4<Scale>{tiled_codes<std::uint8_t>(w.codes, w.k, TileView<Lut4<Scale>>::kSteps, memory),
                     w.levels,
                     tile(w.scale, w.k / w.blocksize, memory),
                     w.blocksize,
                     w.n,
                     w.k};
}

Buffer tiled_int4(const Buffer& codes, int k, DeviceMemory& memory) {
  Buffer result = memory.allocate(codes.size());
  auto* to = result.mutable_as<std::uint32_t>();
  const std::size_t unit = static_cast<std::size_t>(kTileRows) * static_cast<std::size_t>(k) / 2;  // whole tiles
  memory.stage(codes, unit, [=](const DeviceMemory::Piece& piece) {
    const Staged<std::uint8_t> pairs{reinterpret_cast<const std::uint8_t*>(piece.data),
                                     static_cast<std::int64_t>(piece.first)};
    const Int4Place place{k};
    arrange(Int4Words<Staged<std::uint8_t>>{pairs, place}, static_cast<std::int64_t>(piece.first / 4),
            static_cast<std::int64_t>(piece.bytes / 4), place, to, piece.stream);
  });
  return result;
}

template <class Zero>
Weight convert(const Int4Group<Zero>& w, DeviceMemory& memory) {
  if (!is_tiled(w)) {
    return Int4Group<Zero>{
        memory.upload(w.codes), memory.upload(w.scales), upload(w.zero, memory), w.group_size, w.n, w.k};
  }
  return Int4Group<Zero>{tiled_int4(w.codes, w.k, memory),
                         arranged<Half>(w.scales, AbsmaxPlace{w.groups()}, memory),
                         tile(w.zero, w.groups(), memory),
                         w.group_size,
                         w.n,
                         w.k};
}

template <class T>
Weight convert(const Dense<T>& w, DeviceMemory& memory) {
  return Dense<T>{memory.upload(w.values), w.n, w.k};
}

/// As the host makes it.
Weight bring_stored(const Weight& w, const Storage& target, std::string_view name, DeviceMemory& memory) {
  const Weight stored = store(w, target, name, memory.pool());
  return with_layout(stored, [&](const auto& layout) { return convert(layout, memory); });
}

/// What is quantized stays as it is, or is made plain on the host.
template <class Quantized>
Weight bring(const Quantized& w, const Storage& target, std::string_view name, DeviceMemory& memory) {
  return bring_stored(w, target, name, memory);
}

template <class T>
Weight bring(const Dense<T>& w, const Storage& target, std::string_view name, DeviceMemory& memory) {
  const bool rows_fit = static_cast<std::size_t>(w.k) * sizeof(T) <= DeviceMemory::kPiece;  // as encoders need them
  if (is_int4(target.scheme) || !rows_fit) return bring_stored(w, target, name, memory);
  require_finite(w, target, name, memory.pool());
  if (target == Storage{Scheme::kNone, kDTypeOf<T>, 0}) return convert(w, memory);
  return encode_on_device(w, target, memory);
}

}  // namespace

Weight to_device(const Weight& weight, const Storage& target, std::string_view name, DeviceMemory& memory) {
  return with_layout(weight, [&](const auto& layout) { return bring(layout, target, name, memory); });
}

}  // namespace nibble
