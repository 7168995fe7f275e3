#include "kernels/cuda/encode.h"

#include "kernels/cuda/arrange.cuh"
#include "kernels/dispatch.h"
#include "kernels/layout/encode.h"

namespace nibble {
namespace {

constexpr int kWarps = kArrangeThreads / 32;

// ---- one number, as it is read from a piece that has arrived

__device__ float round_as(DType dtype, float value) {
  return dtype == DType::kF16 ? rounded<Half>(value) : dtype == DType::kBF16 ? rounded<BFloat16>(value) : value;
}

/// Number i of a weight, rounded to a dtype.
template <class T>
struct Rounded {
  const T* piece;
  std::int64_t first;
  DType dtype;

  __device__ float operator()(std::int64_t i) const { return round_as(dtype, to_float(piece[i - first])); }
};

template <class T, class Source>
struct RoundedTo {
  Source source;

  __device__ T operator()(std::int64_t i) const { return round_to<T>(source(i)); }
};

__device__ float warp_max(float value) {
  for (int other = 16; other > 0; other /= 2) value = std::fmax(value, __shfl_xor_sync(0xffffffffU, value, other));
  return value;
}

/// The largest value of a block of kArrangeThreads threads.
__device__ float block_max(float value) {
  __shared__ float of_warp[kWarps];
  value = warp_max(value);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
  __syncthreads();
  float largest = of_warp[0];
  for (const float other : of_warp) largest = std::fmax(largest, other);
  return largest;
}

// ---- 4 bits: a warp encodes a block of weights

template <class T>
__global__ void encode_lut4_kernel(Rounded<T> values, std::int64_t count, int blocksize, Search4 search,
                                   CodePlace place, AbsmaxPlace absmax_place, std::uint8_t* codes, float* absmax) {
  const std::int64_t first = (static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32) * blocksize;
  if (first >= count) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const bool whole = first + blocksize <= count;
  const std::int64_t begin = values.first + first, end = values.first + (whole ? first + blocksize : count);
  float largest = 0;
  for (std::int64_t i = begin + lane; i < end; i += 32) largest = std::fmax(largest, std::fabs(values(i)));
  const BlockDivisor divisor(warp_max(largest), whole);
  if (lane == 0) absmax[absmax_place(begin / blocksize)] = divisor.absmax;
  for (std::int64_t i = begin + 2 * lane; i < end; i += 64) {
    const int high = divisor.code(values(i), search);
    const int low = i + 1 < end ? divisor.code(values(i + 1), search) : search.nearest(0.0F);
    codes[place(i / 2)] = static_cast<std::uint8_t>(high << 4 | low);
  }
}

// ---- double quantization of absmax

__global__ void mean_kernel(const float* values, std::int64_t count, float* mean) {
  __shared__ float partial[32];
  const MeanShape shape(count);
  const int lane = static_cast<int>(threadIdx.x) % 8, sum = static_cast<int>(threadIdx.x) / 8;
  if (lane < shape.lanes) partial[threadIdx.x] = partial_sum(values, shape, lane, sum);
  __syncwarp();
  if (threadIdx.x > 0) return;
  *mean = torch_mean(values, count, [&](int of_lane, int of_sum) { return partial[of_sum * 8 + of_lane]; });
}

__global__ void encode_nested_kernel(const float* absmax, std::int64_t count, const float* mean, const float* map,
                                     AbsmaxPlace place, std::uint8_t* codes, float* nested_absmax) {
  static_assert(kArrangeThreads == NestedScale::kBlocksize);
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kArrangeThreads + threadIdx.x;
  const float value = i < count ? absmax[i] : *mean;
  const float largest = block_max(std::fabs(value - *mean));
  if (threadIdx.x == 0) nested_absmax[blockIdx.x] = largest;
  if (i < count) codes[place(i)] = nested_code(value, *mean, largest, map);
}

/// `absmax` are on the device, in the file's order, and one number of room behind them.
NestedScale encode_nested(const float* absmax, std::int64_t count, const AbsmaxPlace& place, DeviceMemory& memory) {
  const unsigned blocks = blocks_for(count);
  NestedScale scale{memory.allocate(static_cast<std::size_t>(count)), memory.allocate(blocks * sizeof(float)),
                    memory.upload_table(shared_table(kDynamicMap)), 0};
  auto* mean = const_cast<float*>(absmax) + count;
  mean_kernel<<<1, 32, 0, memory.stream()>>>(absmax, count, mean);
  encode_nested_kernel<<<blocks, kArrangeThreads, 0, memory.stream()>>>(
      absmax, count, mean, scale.nested_table.as<float>(), place, scale.absmax.mutable_as<std::uint8_t>(),
      scale.nested_absmax.mutable_as<float>());
  check(cudaGetLastError(), "encoding absmax values");
  check(cudaMemcpyAsync(&scale.offset, mean, sizeof(float), cudaMemcpyDeviceToHost, memory.stream()), "reading a mean");
  check(cudaStreamSynchronize(memory.stream()), "encoding absmax values");
  return scale;
}

/// A 4-bit weight whose codes and absmax `fill(codes, code_place, absmax, absmax_place)` makes.
template <class F>
Weight make_lut4(int n, int k, const Storage& storage, DeviceMemory& memory, F&& fill) {
  const std::int64_t elements = static_cast<std::int64_t>(n) * k;
  const std::int64_t blocks = (elements + storage.blocksize - 1) / storage.blocksize;
  const auto absmax_bytes = static_cast<std::size_t>(blocks) * sizeof(float);
  Lut4<F32Scale> made{memory.allocate(static_cast<std::size_t>((elements + 1) / 2)),
                      levels_of(storage.scheme),
                      {},
                      storage.blocksize,
                      n,
                      k};
  const bool tiled = is_tiled(made);
  const CodePlace place{k, tiled ? TileView<Lut4<F32Scale>>::kSteps : 0};
  const AbsmaxPlace absmax_place{tiled ? k / storage.blocksize : 0};
  auto* codes = made.codes.mutable_as<std::uint8_t>();
  if (!is_nested(storage.scheme)) {
    made.scale.absmax = memory.allocate(absmax_bytes);
    fill(codes, place, made.scale.absmax.mutable_as<float>(), absmax_place);
    return made;
  }
  Buffer absmax = memory.temporary(absmax_bytes + sizeof(float));
  fill(codes, place, absmax.mutable_as<float>(), AbsmaxPlace{0});
  return Lut4<NestedScale>{
      made.codes,        made.levels, encode_nested(absmax.as<float>(), blocks, absmax_place, memory),
      storage.blocksize, n,           k};
}

// ---- 8 bits: a block of threads encodes a row

template <class T>
__global__ void encode_int8_kernel(Rounded<T> values, int k, int steps, std::int8_t* codes, float* scb) {
  const std::int64_t begin = values.first + static_cast<std::int64_t>(blockIdx.x) * k;
  const std::int64_t row = begin / k;
  float largest = 0;
  for (int col = static_cast<int>(threadIdx.x); col < k; col += kArrangeThreads) {
    largest = std::fmax(largest, std::fabs(rounded<Half>(values(begin + col))));
  }
  largest = block_max(largest);
  if (threadIdx.x == 0) scb[row] = largest;
  const float factor = int8_factor(largest);
  for (int col = static_cast<int>(threadIdx.x); col < k; col += kArrangeThreads) {
    const std::int64_t place =
        steps == 0 ? begin + col : 2 * place_in_tiles(static_cast<int>(row), col & ~1, k, steps) + (col & 1);
    codes[place] = int8_code(values(begin + col), factor);
  }
}

Int8Row make_int8(int n, int k, DeviceMemory& memory) {
  return {memory.allocate(static_cast<std::size_t>(n) * static_cast<std::size_t>(k)),
          memory.allocate(static_cast<std::size_t>(n) * sizeof(float)), n, k};
}

int steps_of(const Int8Row& weight) { return is_tiled(weight) ? TileView<Int8Row>::kSteps : 0; }

// ---- made up

struct RandomValue {
  RandomStream stream;
  __device__ float operator()(std::int64_t i) const { return stream.value(i); }
};
struct RandomPair {
  RandomStream stream;
  __device__ std::uint8_t operator()(std::int64_t pair) const { return stream.code_pair(pair); }
};
struct RandomInt4Pair {
  RandomStream stream;
  __device__ std::uint8_t operator()(std::int64_t pair) const { return stream.int4_pair(pair); }
};
struct RandomInt8 {
  RandomStream stream;
  __device__ std::int8_t operator()(std::int64_t i) const { return stream.int8_code(i); }
};
struct RandomInt8Pair {
  RandomStream stream;
  __device__ std::uint16_t operator()(std::int64_t pair) const {
    const auto low = static_cast<std::uint8_t>(stream.int8_code(2 * pair));
    const auto high = static_cast<std::uint8_t>(stream.int8_code(2 * pair + 1));
    return static_cast<std::uint16_t>(low | high << 8);
  }
};

template <class T>
Dense<T> make_dense(int n, int k, DeviceMemory& memory) {
  return {memory.allocate(static_cast<std::size_t>(n) * static_cast<std::size_t>(k) * sizeof(T)), n, k};
}

SymmetricZero make_zeros(SymmetricZero, std::size_t, DeviceMemory&) { return {}; }
/// All are 8, in whatever order.
ZeroPoints make_zeros(ZeroPoints zero, std::size_t groups, DeviceMemory& memory) {
  zero.zeros = memory.allocate(groups);
  arrange(Constant<std::uint8_t>{8}, 0, static_cast<std::int64_t>(groups), PlainPlace{},
          zero.zeros.mutable_as<std::uint8_t>(), memory.stream());
  return zero;
}

template <class Zero>
Weight random_int4(const RandomWeight& weight, DeviceMemory& memory) {
  const RandomStream numbers(weight);
  const auto groups =
      static_cast<std::size_t>(weight.n) * static_cast<std::size_t>(groups_in_row(weight.k, weight.storage.blocksize));
  Int4Group<Zero> made{memory.allocate(static_cast<std::size_t>((weight.elements() + 1) / 2)),
                       memory.allocate(groups * sizeof(Half)),
                       make_zeros(Zero{}, groups, memory),
                       weight.storage.blocksize,
                       weight.n,
                       weight.k};
  arrange(Constant<Half>{round_to<Half>(weight.int4_scale())}, 0, static_cast<std::int64_t>(groups), PlainPlace{},
          made.scales.template mutable_as<Half>(), memory.stream());
  if (is_tiled(made)) {
    const Int4Place place{weight.k};
    arrange(Int4Words<RandomInt4Pair>{{numbers}, place}, 0, weight.elements() / 8, place,
            made.codes.template mutable_as<std::uint32_t>(), memory.stream());
  } else {
    arrange(RandomInt4Pair{numbers}, 0, (weight.elements() + 1) / 2, PlainPlace{},
            made.codes.template mutable_as<std::uint8_t>(), memory.stream());
  }
  return made;
}

}  // namespace

template <class T>
Weight encode_on_device(const Dense<T>& weight, const Storage& target, DeviceMemory& memory) {
  const auto values = [&](const DeviceMemory::Piece& piece) {
    return Rounded<T>{reinterpret_cast<const T*>(piece.data), static_cast<std::int64_t>(piece.first / sizeof(T)),
                      target.dtype};
  };
  const auto count = [](const DeviceMemory::Piece& piece) {
    return static_cast<std::int64_t>(piece.bytes / sizeof(T));
  };
  if (target.scheme == Scheme::kNone) {
    return with_dtype(target.dtype, [&](auto tag) -> Weight {
      using Target = typename decltype(tag)::type;
      auto made = make_dense<Target>(weight.n, weight.k, memory);
      auto* to = made.values.template mutable_as<Target>();
      memory.stage(weight.values, sizeof(T), [&](const DeviceMemory::Piece& piece) {
        const RoundedTo<Target, Rounded<T>> source{values(piece)};
        arrange(source, source.source.first, count(piece), PlainPlace{}, to, piece.stream);
      });
      return made;
    });
  }
  if (is_int8(target.scheme)) {
    Int8Row made = make_int8(weight.n, weight.k, memory);
    const std::size_t row_bytes = static_cast<std::size_t>(weight.k) * sizeof(T);  // a row is read by one block
    memory.stage(weight.values, row_bytes, [&](const DeviceMemory::Piece& piece) {
      encode_int8_kernel<<<static_cast<unsigned>(piece.bytes / row_bytes), kArrangeThreads, 0, piece.stream>>>(
          values(piece), weight.k, steps_of(made), made.codes.mutable_as<std::int8_t>(), made.scb.mutable_as<float>());
      check(cudaGetLastError(), "encoding weights");
    });
    return int8_weight(made, target.scheme);
  }
  return make_lut4(weight.n, weight.k, target, memory,
                   [&](std::uint8_t* codes, const CodePlace& place, float* absmax, const AbsmaxPlace& absmax_place) {
                     const auto blocksize = static_cast<std::size_t>(target.blocksize);
                     const Search4& search = is_nf4(target.scheme) ? kNf4Search : kFp4Search;
                     memory.stage(weight.values, blocksize * sizeof(T), [&](const DeviceMemory::Piece& piece) {
                       const std::int64_t blocks = (count(piece) + target.blocksize - 1) / target.blocksize;
                       encode_lut4_kernel<<<blocks_for(blocks, kWarps), kArrangeThreads, 0, piece.stream>>>(
                           values(piece), count(piece), target.blocksize, search, place, absmax_place, codes, absmax);
                       check(cudaGetLastError(), "encoding weights");
                     });
                   });
}

template Weight encode_on_device(const Dense<float>&, const Storage&, DeviceMemory&);
template Weight encode_on_device(const Dense<Half>&, const Storage&, DeviceMemory&);
template Weight encode_on_device(const Dense<BFloat16>&, const Storage&, DeviceMemory&);

Weight random_on_device(const RandomWeight& weight, DeviceMemory& memory) {
  const RandomStream numbers(weight);
  const Storage& storage = weight.storage;
  const std::int64_t elements = weight.elements();
  cudaStream_t stream = memory.stream();
  if (storage.scheme == Scheme::kNone) {
    return with_dtype(storage.dtype, [&](auto tag) -> Weight {
      using T = typename decltype(tag)::type;
      auto made = make_dense<T>(weight.n, weight.k, memory);
      const RoundedTo<T, RandomValue> source{{numbers}};
      arrange(source, 0, elements, PlainPlace{}, made.values.template mutable_as<T>(), stream);
      return made;
    });
  }
  if (is_int8(storage.scheme)) {
    Int8Row made = make_int8(weight.n, weight.k, memory);
    arrange(Constant<float>{weight.absmax()}, 0, weight.n, PlainPlace{}, made.scb.mutable_as<float>(), stream);
    if (const int steps = steps_of(made); steps > 0) {
      arrange(RandomInt8Pair{numbers}, 0, elements / 2, CodePlace{weight.k, steps},
              made.codes.mutable_as<std::uint16_t>(), stream);
    } else {
      arrange(RandomInt8{numbers}, 0, elements, PlainPlace{}, made.codes.mutable_as<std::int8_t>(), stream);
    }
    return int8_weight(made, storage.scheme);
  }
  if (storage.scheme == Scheme::kInt4) return random_int4<SymmetricZero>(weight, memory);
  if (storage.scheme == Scheme::kInt4Asym) return random_int4<ZeroPoints>(weight, memory);
  return make_lut4(weight.n, weight.k, storage, memory,
                   [&](std::uint8_t* codes, const CodePlace& place, float* absmax, const AbsmaxPlace& absmax_place) {
                     const std::int64_t blocks = (elements + storage.blocksize - 1) / storage.blocksize;
                     arrange(RandomPair{numbers}, 0, (elements + 1) / 2, place, codes, stream);
                     arrange(Constant<float>{weight.absmax()}, 0, blocks, absmax_place, absmax, stream);
                   });
}

}  // namespace nibble
