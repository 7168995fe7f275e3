#include "models/storage.h"

#include <algorithm>
#include <bit>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/dispatch.h"
#include "nibble/error.h"

namespace nibble {
namespace {

/// Weights handled by one task: a multiple of every block size, small enough to stay in the cache as fp32.
constexpr std::int64_t kPiece = 1 << 16;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// Calls f(first, count) for pieces of [0, elements), in parallel.
template <class F>
void for_each_piece(std::int64_t elements, std::int64_t piece, ThreadPool& pool, F&& f) {
  pool.run(static_cast<int>(ceil_div(elements, piece)), [&](int task) {
    const std::int64_t first = task * piece;
    f(first, std::min(piece, elements - first));
  });
}

/// The values [first, first + count) of a dense weight, rounded to `dtype`.
template <class T>
void read_rounded(const T* values, std::int64_t first, std::int64_t count, DType dtype, float* out) {
  with_dtype(dtype, [&](auto tag) {
    using Target = typename decltype(tag)::type;
    for (std::int64_t i = 0; i < count; ++i) out[i] = rounded<Target>(to_float(values[first + i]));
  });
}

/// The exponent of an infinity or a NaN is all ones; looking at the bits is as fast as memory.
bool all_finite(const float* values, std::int64_t count) {
  bool finite = true;
  for (std::int64_t i = 0; i < count; ++i) {
    finite &= (std::bit_cast<std::uint32_t>(values[i]) & 0x7f800000U) != 0x7f800000U;
  }
  return finite;
}
template <class T>
bool all_finite(const T* values, std::int64_t count) {
  constexpr std::uint16_t kExponent = std::is_same_v<T, Half> ? 0x7c00 : 0x7f80;
  bool finite = true;
  for (std::int64_t i = 0; i < count; ++i) finite &= (values[i].bits & kExponent) != kExponent;
  return finite;
}

/// Fails when any value of a dense weight is NaN or infinite, as it is or once rounded to the target dtype.
template <class T>
void require_finite(const T* values, std::int64_t count, std::string_view name) {
  if (!all_finite(values, count)) {
    throw Error(ErrorKind::kFormat,
                std::string(name) + ": expected finite weights, found a NaN or an infinity among them");
  }
}

template <class T>
Weight to_dense(const Dense<T>& source, DType dtype, std::string_view name, ThreadPool& pool) {
  const auto elements = static_cast<std::int64_t>(source.n) * source.k;
  if (kDTypeOf<T> == dtype) {
    for_each_piece(elements, kPiece, pool, [&](std::int64_t first, std::int64_t count) {
      require_finite(source.values.template as<T>() + first, count, name);
    });
    return source;
  }
  return with_dtype(dtype, [&](auto tag) -> Weight {
    using Target = typename decltype(tag)::type;
    Dense<Target> result{Buffer::allocate_in_huge_pages(static_cast<std::size_t>(elements) * sizeof(Target)), source.n,
                         source.k};
    auto* out = result.values.template mutable_as<Target>();
    const T* values = source.values.template as<T>();
    for_each_piece(elements, kPiece, pool, [&](std::int64_t first, std::int64_t count) {
      std::vector<float> piece(static_cast<std::size_t>(count));
      read_rounded(values, first, count, dtype, piece.data());
      require_finite(piece.data(), count, name);
      for (std::int64_t i = 0; i < count; ++i) out[first + i] = round_to<Target>(piece[static_cast<std::size_t>(i)]);
    });
    return result;
  });
}

template <class T>
Weight to_int8(const Dense<T>& source, DType dtype, std::string_view name, ThreadPool& pool) {
  const std::int64_t k = source.k;
  const std::int64_t elements = source.n * k;
  Int8Row result{Buffer::allocate_in_huge_pages(static_cast<std::size_t>(elements)),
                 Buffer::allocate(static_cast<std::size_t>(source.n) * sizeof(float)), source.n, source.k};
  auto* codes = result.codes.mutable_as<std::int8_t>();
  auto* scb = result.scb.mutable_as<float>();
  const std::int64_t rows_a_piece = std::max<std::int64_t>(1, kPiece / k);
  for_each_piece(elements, rows_a_piece * k, pool, [&](std::int64_t first, std::int64_t count) {
    std::vector<float> piece(static_cast<std::size_t>(count));
    read_rounded(source.values.template as<T>(), first, count, dtype, piece.data());
    for (float& value : piece) value = rounded<Half>(value);  // as the encoder does; beyond 65504 it is infinite
    require_finite(piece.data(), count, name);
    encode_int8_rows(piece, source.k, {codes + first, static_cast<std::size_t>(count)},
                     {scb + first / k, static_cast<std::size_t>(count / k)});
  });
  return result;
}

template <class T>
Weight to_lut4(const Dense<T>& source, const Storage& target, std::string_view name, ThreadPool& pool) {
  const auto elements = static_cast<std::int64_t>(source.n) * source.k;
  const bool nf4 = target.scheme == Scheme::kNf4 || target.scheme == Scheme::kNf4Dq;
  Buffer codes = Buffer::allocate_in_huge_pages(static_cast<std::size_t>(ceil_div(elements, 2)));
  const Buffer levels = shared_table(nf4 ? kNf4Levels : kFp4Levels);
  const std::int64_t blocks = ceil_div(elements, target.blocksize);
  Buffer absmax = Buffer::allocate_in_huge_pages(static_cast<std::size_t>(blocks) * sizeof(float));
  for_each_piece(elements, kPiece, pool, [&](std::int64_t first, std::int64_t count) {
    std::vector<float> piece(static_cast<std::size_t>(count));
    read_rounded(source.values.template as<T>(), first, count, target.dtype, piece.data());
    require_finite(piece.data(), count, name);
    const auto encode = nf4 ? encode_nf4 : encode_fp4;
    encode(piece, target.blocksize,
           {codes.mutable_as<std::uint8_t>() + first / 2, static_cast<std::size_t>(ceil_div(count, 2))},
           {absmax.mutable_as<float>() + first / target.blocksize,
            static_cast<std::size_t>(ceil_div(count, target.blocksize))});
  });
  if (!is_nested(target.scheme)) {
    return Lut4<F32Scale>{codes, levels, {absmax}, target.blocksize, source.n, source.k};
  }
  return Lut4<NestedScale>{
      codes,    levels,  encode_nested({absmax.as<float>(), static_cast<std::size_t>(blocks)}), target.blocksize,
      source.n, source.k};
}

/// The lowest level of NF4 is -1, of FP4 0.
Scheme lut4_scheme(const Buffer& levels, Scheme nf4, Scheme fp4) { return levels.as<float>()[0] < 0 ? nf4 : fp4; }

template <class T>
Storage describe(const Dense<T>&, DType) {
  return {Scheme::kNone, kDTypeOf<T>, 0};
}
Storage describe(const Int8Row&, DType dtype) { return {Scheme::kInt8, dtype, 0}; }
Storage describe(const Lut4<F32Scale>& w, DType dtype) {
  return {lut4_scheme(w.levels, Scheme::kNf4, Scheme::kFp4), dtype, w.blocksize};
}
Storage describe(const Lut4<NestedScale>& w, DType dtype) {
  return {lut4_scheme(w.levels, Scheme::kNf4Dq, Scheme::kFp4Dq), dtype, w.blocksize};
}

template <class T>
Weight convert(const Dense<T>& source, const Storage& target, std::string_view name, ThreadPool& pool) {
  if (target.scheme == Scheme::kNone) return to_dense(source, target.dtype, name, pool);
  if (target.scheme == Scheme::kInt8) return to_int8(source, target.dtype, name, pool);
  return to_lut4(source, target, name, pool);
}

/// A quantized weight can be turned into plain values and nothing else: quantizing twice loses twice.
template <class Quantized>
Weight convert(const Quantized& source, const Storage& target, std::string_view name, ThreadPool& pool) {
  if (target.scheme != Scheme::kNone) {
    throw Error(ErrorKind::kInvalidArgument, std::string(name) + ": is already quantized to " +
                                                 std::string(to_string(describe(source, target.dtype).scheme)) +
                                                 " and cannot be turned into " + std::string(to_string(target.scheme)));
  }
  const auto elements = static_cast<std::size_t>(source.n) * static_cast<std::size_t>(source.k);
  Dense<float> decoded{Buffer::allocate(elements * sizeof(float)), source.n, source.k};
  decode_all(source, {decoded.values.mutable_as<float>(), elements});
  return to_dense(decoded, target.dtype, name, pool);
}

}  // namespace

bool is_4bit(Scheme scheme) { return scheme != Scheme::kNone && scheme != Scheme::kInt8; }
bool is_nested(Scheme scheme) { return scheme == Scheme::kNf4Dq || scheme == Scheme::kFp4Dq; }

void check_blocksize(int blocksize) {
  const bool power_of_two = blocksize > 0 && (blocksize & (blocksize - 1)) == 0;
  if (!power_of_two || blocksize < 32 || blocksize > 4096) {
    throw Error(ErrorKind::kInvalidArgument,
                "blocksize: expected 32, 64, 128, 256, 512, 1024, 2048 or 4096, found " + std::to_string(blocksize));
  }
}

StorageBytes storage_bytes(const Storage& storage, std::int64_t n, std::int64_t k) {
  const std::int64_t elements = n * k;
  const auto bytes = [](std::int64_t count) { return static_cast<std::uint64_t>(count); };
  if (storage.scheme == Scheme::kNone) return {bytes(elements) * size_of(storage.dtype), 0};
  if (storage.scheme == Scheme::kInt8) return {bytes(elements), bytes(n) * sizeof(float)};
  const std::int64_t blocks = ceil_div(elements, storage.blocksize);
  if (!is_nested(storage.scheme)) return {bytes(ceil_div(elements, 2)), bytes(blocks) * sizeof(float)};
  const std::uint64_t nested = bytes(ceil_div(blocks, NestedScale::kBlocksize)) * sizeof(float);
  return {bytes(ceil_div(elements, 2)), bytes(blocks) + nested + sizeof(float)};
}

Storage storage_of(const Weight& weight, DType dtype) {
  return with_layout(weight, [&](const auto& w) { return describe(w, dtype); });
}

Weight store(Weight weight, const Storage& target, std::string_view name, ThreadPool& pool) {
  if (target.scheme != Scheme::kNone && storage_of(weight, target.dtype) == target) return weight;
  return with_layout(weight, [&](const auto& source) { return convert(source, target, name, pool); });
}

}  // namespace nibble
