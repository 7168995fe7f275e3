// Putting the parts of a weight in the order they stand in on a GPU, wherever they come from.
#pragma once

#include "kernels/cuda/memory.h"
#include "kernels/cuda/views.cuh"
#include "kernels/random_weight.h"

namespace nibble {

inline constexpr int kArrangeThreads = 256;

inline unsigned blocks_for(std::int64_t items, int threads = kArrangeThreads) {
  return static_cast<unsigned>((items + threads - 1) / threads);
}

// Where number i of the file's order stands.

struct PlainPlace {
  __device__ std::int64_t operator()(std::int64_t i) const { return i; }
};

/// Pairs of codes.
struct CodePlace {
  int k;
  int steps;  ///< of a tile, see tiles.cuh; 0: as in the file

  __device__ std::int64_t operator()(std::int64_t pair) const {
    if (steps == 0) return pair;
    const int pairs = k / 2;
    return place_in_tiles(static_cast<int>(pair / pairs), 2 * static_cast<int>(pair % pairs), k, steps);
  }
};

/// Words of four pairs of int4 codes: two columns' pairs of rows g and g + 8. Word i is number i % (k / 4) of its rows.
struct Int4Place {
  int k;

  __device__ int row(std::int64_t word) const {
    const auto upper = static_cast<int>(word / (k / 4));
    return upper / 8 * kTileRows + upper % 8;
  }
  __device__ int col(std::int64_t word) const { return static_cast<int>(word % (k / 4)) * 4; }
  __device__ std::int64_t operator()(std::int64_t word) const {
    return place_in_tiles(row(word), col(word), k, TileView<Int4Group<SymmetricZero>>::kSteps) / 4;
  }
};

/// The absmax of a block, or the scale or zero point of a group.
struct AbsmaxPlace {
  int blocks;  ///< of a row; 0: as in the file

  __device__ std::int64_t operator()(std::int64_t block) const {
    if (blocks == 0) return block;
    return place_of_absmax(static_cast<int>(block / blocks), static_cast<int>(block % blocks), blocks);
  }
};

// What number i is.

template <class Value>
struct Staged {
  const Value* piece;
  std::int64_t first;  ///< of the piece

  __device__ Value operator()(std::int64_t i) const { return piece[i - first]; }
};

template <class Value>
struct Constant {
  Value value;

  __device__ Value operator()(std::int64_t) const { return value; }
};

/// Such words of what `pairs` has, in the order TileView<Int4Group> takes them apart.
template <class Pairs>
struct Int4Words {
  Pairs pairs;
  Int4Place place;

  __device__ std::uint32_t operator()(std::int64_t word) const {
    std::uint32_t codes = 0;
    for (int pair = 0; pair < 4; ++pair) {
      const int row = place.row(word) + pair % 2 * 8, col = place.col(word) + pair / 2 * 2;
      const std::uint32_t byte = pairs((static_cast<std::int64_t>(row) * place.k + col) / 2);
      codes |= (byte >> 4) << (4 * pair) | (byte & 15) << (4 * pair + 16);
    }
    return codes;
  }
};

template <class Value, class Source, class Place>
__global__ void arrange_kernel(Source source, std::int64_t first, std::int64_t count, Place place, Value* to) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kArrangeThreads + threadIdx.x;
  if (i < count) to[place(first + i)] = source(first + i);
}

/// Numbers [first, first + count).
template <class Value, class Source, class Place>
void arrange(const Source& source, std::int64_t first, std::int64_t count, const Place& place, Value* to,
             cudaStream_t stream) {
  arrange_kernel<<<blocks_for(count), kArrangeThreads, 0, stream>>>(source, first, count, place, to);
  check(cudaGetLastError(), "arranging weights");
}

/// Host memory of Values, each brought to its place.
template <class Value, class Place>
Buffer arranged(const Buffer& host, const Place& place, DeviceMemory& memory) {
  Buffer result = memory.allocate(host.size());
  auto* to = result.mutable_as<Value>();
  memory.stage(host, sizeof(Value), [=](const DeviceMemory::Piece& piece) {
    const auto first = static_cast<std::int64_t>(piece.first / sizeof(Value));
    const Staged<Value> source{reinterpret_cast<const Value*>(piece.data), first};
    arrange(source, first, static_cast<std::int64_t>(piece.bytes / sizeof(Value)), place, to, piece.stream);
  });
  return result;
}

}  // namespace nibble
