#include "kernels/random_weight.h"

#include <algorithm>

#include "kernels/dispatch.h"

namespace nibble {
namespace {

/// Sets each of `count` places to f(place), in parallel.
template <class T, class F>
Buffer filled(Buffer buffer, std::int64_t count, ThreadPool& pool, F&& f) {
  constexpr std::int64_t kPiece = 1 << 18;
  auto* values = buffer.mutable_as<T>();
  pool.run(static_cast<int>((count + kPiece - 1) / kPiece), [&](int task) {
    const std::int64_t last = std::min(count, (task + 1) * kPiece);
    for (std::int64_t i = task * kPiece; i < last; ++i) values[i] = f(i);
  });
  return buffer;
}
template <class T, class F>
Buffer filled(std::int64_t count, ThreadPool& pool, F&& f) {
  return filled<T>(Buffer::allocate_in_huge_pages(static_cast<std::size_t>(count) * sizeof(T)), count, pool, f);
}

}  // namespace

Weight make_random_weight(const RandomWeight& weight, ThreadPool& pool) {
  const RandomStream stream(weight);
  const auto absmax = [&](std::int64_t) { return weight.absmax(); };
  const Storage& storage = weight.storage;
  if (storage.scheme == Scheme::kNone) {
    return with_dtype(storage.dtype, [&](auto tag) -> Weight {
      using T = typename decltype(tag)::type;
      const auto value = [&](std::int64_t i) { return round_to<T>(stream.value(i)); };
      return Dense<T>{filled<T>(weight.elements(), pool, value), weight.n, weight.k};
    });
  }
  if (is_int8(storage.scheme)) {
    const auto code = [&](std::int64_t i) { return stream.int8_code(i); };
    const Int8Row made{filled<std::int8_t>(weight.elements(), pool, code), filled<float>(weight.n, pool, absmax),
                       weight.n, weight.k};
    return int8_weight(made, storage.scheme);
  }
  if (is_int4(storage.scheme)) {
    const auto int4_pair = [&](std::int64_t i) { return stream.int4_pair(i); };
    const auto scale = [&](std::int64_t) { return round_to<Half>(weight.int4_scale()); };
    const auto zero = [](std::int64_t) { return std::uint8_t{8}; };
    const Buffer int4_codes = filled<std::uint8_t>((weight.elements() + 1) / 2, pool, int4_pair);
    const std::int64_t groups = std::int64_t{weight.n} * groups_in_row(weight.k, storage.blocksize);
    const Buffer scales = filled<Half>(groups, pool, scale);
    if (storage.scheme == Scheme::kInt4) {
      return Int4Group<SymmetricZero>{int4_codes, scales, {}, storage.blocksize, weight.n, weight.k};
    }
    const Buffer zeros = filled<std::uint8_t>(groups, pool, zero);
    return Int4Group<ZeroPoints>{int4_codes, scales, {zeros}, storage.blocksize, weight.n, weight.k};
  }
  const auto pair = [&](std::int64_t i) { return stream.code_pair(i); };
  const Buffer codes = filled<std::uint8_t>((weight.elements() + 1) / 2, pool, pair);
  const std::int64_t blocks = (weight.elements() + storage.blocksize - 1) / storage.blocksize;
  const Buffer scales = filled<float>(allocate_absmax(storage, blocks), blocks, pool, absmax);
  return quantized(codes, scales, storage, weight.n, weight.k);
}

}  // namespace nibble
