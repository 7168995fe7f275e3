#include "kernels/storage.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <string>
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

/// A number's bits without its sign, which are in the order of magnitudes; those of infinity come before NaNs'.
std::uint32_t magnitude(float value) { return std::bit_cast<std::uint32_t>(value) & 0x7fffffffU; }
std::uint16_t magnitude(Half value) { return value.bits & 0x7fffU; }
std::uint16_t magnitude(BFloat16 value) { return value.bits & 0x7fffU; }

template <class T>
constexpr auto kInfinity = std::uint16_t{0};
template <>
constexpr auto kInfinity<float> = std::uint32_t{0x7f800000};
template <>
constexpr auto kInfinity<Half> = std::uint16_t{0x7c00};
template <>
constexpr auto kInfinity<BFloat16> = std::uint16_t{0x7f80};

/// The smallest magnitude of a T that is infinite once it is rounded as `target` says.
template <class T>
auto first_infinite(const Storage& target) {
  using Bits = decltype(magnitude(T{}));
  const auto is_finite = [&](Bits bits) {
    const float value = with_dtype(target.dtype, [&](auto tag) {
      return rounded<typename decltype(tag)::type>(to_float(std::bit_cast<T>(bits)));
    });
    return std::isfinite(is_int8(target.scheme) ? rounded<Half>(value) : value);  // int8's encoder takes fp16
  };
  Bits first = 0, last = kInfinity<T>;
  while (first < last) {
    const auto middle = static_cast<Bits>(first + (last - first) / 2);
    if (is_finite(middle)) {
      first = static_cast<Bits>(middle + 1);
    } else {
      last = middle;
    }
  }
  return first;
}

/// Whether all magnitudes are below `limit`. Looking at the bits is as fast as memory.
template <class T, class Bits>
bool all_finite(const T* values, std::int64_t count, Bits limit, ThreadPool& pool) {
  std::atomic<bool> finite = true;
  for_each_piece(count, kPiece, pool, [&](std::int64_t first, std::int64_t pieces) {
    bool all = true;
    for (std::int64_t i = first; i < first + pieces; ++i) all &= magnitude(values[i]) < limit;
    if (!all) finite.store(false, std::memory_order_relaxed);
  });
  return finite;
}

[[noreturn]] void refuse_weights(std::string_view name) {
  throw Error(ErrorKind::kFormat,
              std::string(name) + ": expected finite weights, found a NaN or an infinity among them");
}

template <class T>
Weight to_dense(const Dense<T>& source, DType dtype, ThreadPool& pool) {
  if (kDTypeOf<T> == dtype) return source;
  const auto elements = static_cast<std::int64_t>(source.n) * source.k;
  return with_dtype(dtype, [&](auto tag) -> Weight {
    using Target = typename decltype(tag)::type;
    Dense<Target> result{Buffer::allocate_in_huge_pages(static_cast<std::size_t>(elements) * sizeof(Target)), source.n,
                         source.k};
    auto* out = result.values.template mutable_as<Target>();
    const T* values = source.values.template as<T>();
    for_each_piece(elements, kPiece, pool, [&](std::int64_t first, std::int64_t count) {
      for (std::int64_t i = first; i < first + count; ++i) out[i] = round_to<Target>(to_float(values[i]));
    });
    return result;
  });
}

template <class T>
Weight to_int8(const Dense<T>& source, const Storage& target, ThreadPool& pool) {
  const std::int64_t k = source.k;
  const std::int64_t elements = source.n * k;
  Int8Row result{Buffer::allocate_in_huge_pages(static_cast<std::size_t>(elements)),
                 Buffer::allocate(static_cast<std::size_t>(source.n) * sizeof(float)), source.n, source.k};
  auto* codes = result.codes.mutable_as<std::int8_t>();
  auto* scb = result.scb.mutable_as<float>();
  const std::int64_t rows_a_piece = std::max<std::int64_t>(1, kPiece / k);
  for_each_piece(elements, rows_a_piece * k, pool, [&](std::int64_t first, std::int64_t count) {
    std::vector<float> piece(static_cast<std::size_t>(count));
    read_rounded(source.values.template as<T>(), first, count, target.dtype, piece.data());
    encode_int8_rows(piece, source.k, {codes + first, static_cast<std::size_t>(count)},
                     {scb + first / k, static_cast<std::size_t>(count / k)});
  });
  return int8_weight(result, target.scheme);
}

template <class T>
Weight to_lut4(const Dense<T>& source, const Storage& target, ThreadPool& pool) {
  const auto elements = static_cast<std::int64_t>(source.n) * source.k;
  Buffer codes = Buffer::allocate_in_huge_pages(static_cast<std::size_t>(ceil_div(elements, 2)));
  const std::int64_t blocks = ceil_div(elements, target.blocksize);
  Buffer absmax = allocate_absmax(target, blocks);
  for_each_piece(elements, kPiece, pool, [&](std::int64_t first, std::int64_t count) {
    std::vector<float> piece(static_cast<std::size_t>(count));
    read_rounded(source.values.template as<T>(), first, count, target.dtype, piece.data());
    const auto encode = is_nf4(target.scheme) ? encode_nf4 : encode_fp4;
    encode(piece, target.blocksize,
           {codes.mutable_as<std::uint8_t>() + first / 2, static_cast<std::size_t>(ceil_div(count, 2))},
           {absmax.mutable_as<float>() + first / target.blocksize,
            static_cast<std::size_t>(ceil_div(count, target.blocksize))});
  });
  return quantized(codes, absmax, target, source.n, source.k);
}

/// Whole rows, and of them an even number, so that pieces begin where bytes do.
std::int64_t int4_piece(std::int64_t k) { return std::max<std::int64_t>(1, kPiece / 2 / k) * 2 * k; }

template <class T>
Weight to_int4(const Dense<T>& source, const Storage& target, std::string_view name, ThreadPool& pool) {
  const std::int64_t k = source.k;
  const std::int64_t elements = source.n * k;
  const std::int64_t groups = groups_in_row(source.k, target.blocksize);
  const bool symmetric = target.scheme == Scheme::kInt4;
  Buffer codes = Buffer::allocate_in_huge_pages(static_cast<std::size_t>(ceil_div(elements, 2)));
  Buffer scales = Buffer::allocate_in_huge_pages(static_cast<std::size_t>(source.n * groups) * sizeof(Half));
  Buffer zeros = Buffer::allocate_in_huge_pages(symmetric ? 0 : static_cast<std::size_t>(source.n * groups));
  for_each_piece(elements, int4_piece(k), pool, [&](std::int64_t first, std::int64_t count) {
    std::vector<float> piece(static_cast<std::size_t>(count));
    read_rounded(source.values.template as<T>(), first, count, target.dtype, piece.data());
    const std::int64_t first_group = first / k * groups;
    const auto group_count = static_cast<std::size_t>(count / k * groups);
    const std::span codes_of_piece(codes.mutable_as<std::uint8_t>() + first / 2,
                                   static_cast<std::size_t>(ceil_div(count, 2)));
    const std::span scales_of_piece(scales.mutable_as<Half>() + first_group, group_count);
    if (symmetric) {
      encode_int4(piece, source.k, target.blocksize, codes_of_piece, scales_of_piece);
    } else {
      encode_int4_asym(piece, source.k, target.blocksize, codes_of_piece, scales_of_piece,
                       {zeros.mutable_as<std::uint8_t>() + first_group, group_count});
    }
  });
  if (!all_finite(scales.as<Half>(), source.n * groups, kInfinity<Half>, pool)) refuse_weights(name);  // beyond 65504
  if (symmetric) return Int4Group<SymmetricZero>{codes, scales, {}, target.blocksize, source.n, source.k};
  return Int4Group<ZeroPoints>{codes, scales, {zeros}, target.blocksize, source.n, source.k};
}

/// The lowest level of NF4 is -1, of FP4 0.
Scheme lut4_scheme(const Buffer& levels, Scheme nf4, Scheme fp4) { return levels.as<float>()[0] < 0 ? nf4 : fp4; }

template <class T>
Storage describe(const Dense<T>&, DType) {
  return {Scheme::kNone, kDTypeOf<T>, 0};
}
Storage describe(const Int8Row&, DType dtype) { return {Scheme::kInt8, dtype, 0}; }
Storage describe(const Int8Decomp&, DType dtype) { return {Scheme::kInt8Decomp, dtype, 0}; }
Storage describe(const Lut4<F32Scale>& w, DType dtype) {
  return {lut4_scheme(w.levels, Scheme::kNf4, Scheme::kFp4), dtype, w.blocksize};
}
Storage describe(const Lut4<NestedScale>& w, DType dtype) {
  return {lut4_scheme(w.levels, Scheme::kNf4Dq, Scheme::kFp4Dq), dtype, w.blocksize};
}
Storage describe(const Int4Group<SymmetricZero>& w, DType dtype) { return {Scheme::kInt4, dtype, w.group_size}; }
Storage describe(const Int4Group<ZeroPoints>& w, DType dtype) { return {Scheme::kInt4Asym, dtype, w.group_size}; }

template <class T>
Weight convert(const Dense<T>& source, const Storage& target, std::string_view name, ThreadPool& pool) {
  require_finite(source, target, name, pool);
  if (target.scheme == Scheme::kNone) return to_dense(source, target.dtype, pool);
  if (is_int8(target.scheme)) return to_int8(source, target, pool);
  if (is_int4(target.scheme)) return to_int4(source, target, name, pool);
  return to_lut4(source, target, pool);
}

/// The scales of a weight, and their name in its layout.
struct Scales {
  const Buffer& values;
  DType dtype;
  const char* name;
};
Scales scales_of(const F32Scale& scale) { return {scale.absmax, DType::kF32, "absmax"}; }
Scales scales_of(const NestedScale& scale) { return {scale.nested_absmax, DType::kF32, "nested_absmax"}; }
Scales scales_of(const Int8Row& weight) { return {weight.scb, DType::kF32, "SCB"}; }
template <class Zero>
Scales scales_of(const Int4Group<Zero>& weight) {
  return {weight.scales, DType::kF16, "scales"};
}
template <class Scale>
Scales scales_of(const Lut4<Scale>& weight) {
  return scales_of(weight.scale);
}

/// The same bits as `scheme` has them.
template <class Quantized>
Weight same_bits(const Quantized& source, Scheme scheme) {
  if constexpr (std::is_base_of_v<Int8Row, Quantized>) {
    return int8_weight(source, scheme);
  } else {
    return source;
  }
}

template <class Quantized>
Weight convert(const Quantized& source, const Storage& target, std::string_view name, ThreadPool& pool) {
  const Scales scales = scales_of(source);
  const bool finite = with_dtype(scales.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto count = static_cast<std::int64_t>(scales.values.size() / sizeof(T));
    return all_finite(scales.values.template as<T>(), count, kInfinity<T>, pool);
  });
  if (!finite) {
    throw Error(ErrorKind::kFormat,
                std::string(name) + ": expected finite scales, found a NaN or an infinity in its " + scales.name);
  }
  require_convertible(describe(source, target.dtype), target, name);
  if (target.scheme != Scheme::kNone) return same_bits(source, target.scheme);
  const auto elements = static_cast<std::size_t>(source.n) * static_cast<std::size_t>(source.k);
  Dense<float> decoded{Buffer::allocate(elements * sizeof(float)), source.n, source.k};
  decode_all(source, {decoded.values.mutable_as<float>(), elements});
  return convert(decoded, target, name, pool);
}

}  // namespace

bool is_4bit(Scheme scheme) { return scheme != Scheme::kNone && !is_int8(scheme); }
bool is_nf4(Scheme scheme) { return scheme == Scheme::kNf4 || scheme == Scheme::kNf4Dq; }
bool is_nested(Scheme scheme) { return scheme == Scheme::kNf4Dq || scheme == Scheme::kFp4Dq; }
bool is_int8(Scheme scheme) { return scheme == Scheme::kInt8 || scheme == Scheme::kInt8Decomp; }
bool is_int4(Scheme scheme) { return scheme == Scheme::kInt4 || scheme == Scheme::kInt4Asym; }

int default_blocksize(Scheme scheme) { return is_int4(scheme) ? 128 : 64; }

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
  if (is_int8(storage.scheme)) return {bytes(elements), bytes(n) * sizeof(float)};
  if (is_int4(storage.scheme)) {
    const std::int64_t groups = n * groups_in_row(static_cast<int>(k), storage.blocksize);
    return {bytes(ceil_div(elements, 2)), bytes(groups) * (storage.scheme == Scheme::kInt4 ? 2 : 3)};
  }
  const std::int64_t blocks = ceil_div(elements, storage.blocksize);
  if (!is_nested(storage.scheme)) return {bytes(ceil_div(elements, 2)), bytes(blocks) * sizeof(float)};
  const std::uint64_t nested = bytes(ceil_div(blocks, NestedScale::kBlocksize)) * sizeof(float);
  return {bytes(ceil_div(elements, 2)), bytes(blocks) + nested + sizeof(float)};
}

Storage storage_of(const Weight& weight, DType dtype) {
  return with_layout(weight, [&](const auto& w) { return describe(w, dtype); });
}

void require_convertible(const Storage& stored, const Storage& target, std::string_view name) {
  if (stored.scheme == Scheme::kNone || target.scheme == Scheme::kNone || stored == target) return;
  if (is_int8(stored.scheme) && is_int8(target.scheme)) return;
  throw Error(ErrorKind::kInvalidArgument, std::string(name) + ": is already quantized to " +
                                               std::string(to_string(stored.scheme)) + " and cannot be turned into " +
                                               std::string(to_string(target.scheme)));
}

template <class T>
void require_finite(const Dense<T>& weight, const Storage& target, std::string_view name, ThreadPool& pool) {
  const auto elements = static_cast<std::int64_t>(weight.n) * weight.k;
  if (!all_finite(weight.values.template as<T>(), elements, first_infinite<T>(target), pool)) refuse_weights(name);
}
template void require_finite(const Dense<float>&, const Storage&, std::string_view, ThreadPool&);
template void require_finite(const Dense<Half>&, const Storage&, std::string_view, ThreadPool&);
template void require_finite(const Dense<BFloat16>&, const Storage&, std::string_view, ThreadPool&);

Buffer levels_of(Scheme scheme) { return shared_table(is_nf4(scheme) ? kNf4Levels : kFp4Levels); }

Buffer allocate_absmax(const Storage& storage, std::int64_t blocks) {
  const auto bytes = static_cast<std::size_t>(blocks) * sizeof(float);
  return is_nested(storage.scheme) ? Buffer::allocate(bytes) : Buffer::allocate_in_huge_pages(bytes);
}

Weight quantized(const Buffer& codes, const Buffer& absmax, const Storage& storage, int n, int k) {
  const Buffer levels = levels_of(storage.scheme);
  if (!is_nested(storage.scheme)) return Lut4<F32Scale>{codes, levels, {absmax}, storage.blocksize, n, k};
  const NestedScale scale = encode_nested({absmax.as<float>(), absmax.size() / sizeof(float)});
  return Lut4<NestedScale>{codes, levels, scale, storage.blocksize, n, k};
}

Weight int8_weight(const Int8Row& weight, Scheme scheme) {
  if (scheme == Scheme::kInt8Decomp) return Int8Decomp{weight};
  return weight;
}

Weight store(const Weight& weight, const Storage& target, std::string_view name, ThreadPool& pool) {
  return with_layout(weight, [&](const auto& source) { return convert(source, target, name, pool); });
}

}  // namespace nibble
