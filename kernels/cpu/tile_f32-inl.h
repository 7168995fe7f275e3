// Tiles of fp32: rows of x as columns, and factors of weights.
#pragma once

namespace nibble {
namespace {

/// Up to sixteen rows of x from `row` on, in the order the decoder gives factors in.
template <class Layout, class T>
void pack_tile_of_f32(const T* x, int k, int rows, int row, void* packed) {
  const int count = rows - row < kTile ? rows - row : kTile, lines = lines_of<F32Tiles>(k);
  for (int first = 0; first < lines * kTile; first += kTile) {
    const int left = k - first < kTile ? k - first : kTile;
    float values[kTile][kTile] = {};
    for (int i = 0; i < count && left > 0; ++i) store(values[i], load_some(x + std::ptrdiff_t{i} * k + first, left));
    F32x16 columns[kTile];
    transpose(values[0], columns);
    for (int i = 0; i < kTile; ++i) {
      const int to = first / kGroup * kGroup + GroupDecoder<Layout>::template place<F32x32>(first % kGroup + i);
      char* line = static_cast<char*>(packed) + place_in_tiles<F32Tiles>(lines, rows, row / kTile, to / kTile);
      store(reinterpret_cast<float*>(line + to % kTile * kTileLine), columns[i]);
    }
  }
}

/// Groups of rows up to `last` of w: those without a fast path one weight at a time.
template <class Layout>
class F32Groups {
 public:
  NIBBLE_HD F32Groups(const typename Layout::View& w, int last)
      : w_(Decoder::template prepared<F32x32>(w)), fast_(Decoder::fast_groups(w, last)) {}

  NIBBLE_HD void operator()(std::int64_t row, int group, Strided<char> lines) const {
    const F32x16 scale = Decoder::scale(w_, row, group);
    const auto put = [&](int part, F32x32 factors) __attribute__((always_inline)) {
      if constexpr (Decoder::kScaled) factors = {factors.first * scale, factors.second * scale};
      store(reinterpret_cast<float*>(lines[2 * part]), factors.first);
      store(reinterpret_cast<float*>(lines[2 * part + 1]), factors.second);
    };
    if (group < fast_) {
      const auto zeros = Decoder::zeros(w_, row, group);
      for (int part = 0; part < kParts; ++part) {
        put(part, take_off(Decoder::template decode<F32x32>(w_, row, group, part), zeros));
      }
    } else {
      float packed[kGroup];
      decode_slowly<F32x32, Layout>(w_, row, group, packed);
      for (int part = 0; part < kParts; ++part) put(part, load_operand<F32x32>(packed + part * kPart));
    }
  }

 private:
  using Decoder = GroupDecoder<Layout>;
  using Prepared = decltype(Decoder::template prepared<F32x32>(std::declval<const typename Layout::View&>()));
  Prepared w_;
  int fast_;
};

template <class Layout, class T>
void multiply_by_tiles_of_f32(const LinearTask<Layout, T>& task, int first, int last, void* scratch) {
  multiply_by_tiles<F32Tiles>(task, first, last, scratch, F32Groups<Layout>(task.weight, last - 1));
}

template <class Layout, class T>
constexpr void use_tiles_of_f32(LinearKernels<Layout, T>& kernels, int most_few) {
  kernels.many = {kTile, turn_of_tiles<F32Tiles>, pack_tile_of_f32<Layout, T>, multiply_by_tiles_of_f32<Layout, T>};
  kernels.most_few = most_few;
}

}  // namespace
}  // namespace nibble
