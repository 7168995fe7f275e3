// y = epilogue(x w^T + bias) through tiles for int8 weights, whose codes are multiplied by bytes of x: sums are whole
// numbers.
//
// A row of x is whole numbers of kDigits digits times powers of two, one for each block of 512 columns. They give the
// largest magnitude of a block 2^(8 kDigits - 2) or more, nearly (digit_unit), so what rounding takes from an element,
// or adds to it, is at most 2^(1 - 8 kDigits) of that largest, by a 64th more: 2^-23 in fp32, 2^-15 in 16 bits. Digits
// are of 256 and signed, and those of one place are rows of bytes of their own. A block's sums are exact, and joined
// and added up in fp32. 8-bit activations (bytes-inl.h) are rounded to one byte.
#pragma once

namespace nibble {
namespace {

template <class T>
constexpr int kDigitsOf = 2;
template <>
constexpr int kDigitsOf<float> = 3;
template <class T>
using DigitTiles = ByteTiles<kDigitsOf<T>>;

/// Groups of rows of w, zero beyond the last column.
template <class Tiles>
class ByteGroups {
 public:
  NIBBLE_HD explicit ByteGroups(const Int8Row::View& w) : w_(w) {}

  NIBBLE_HD void operator()(std::int64_t row, int group, Strided<char> lines) const {
    const std::int8_t* codes = w_.codes + row * w_.k + group * kGroup;
    const int left = w_.k - group * kGroup;
    std::int8_t some[kGroup];
    if (left < kGroup) {
      for (int i = 0; i < kGroup; ++i) some[i] = i < left ? codes[i] : std::int8_t{0};
      codes = some;
    }
    for (int line = 0; line < kGroup / kTileLine; ++line) {
      const __m512i bytes = _mm512_loadu_si512(codes + line * kTileLine);
      _mm512_storeu_si512(lines[line],
                          _mm512_add_epi8(bytes, _mm512_set1_epi8(static_cast<char>(Tiles::kWeightOffset))));
    }
  }

 private:
  const Int8Row::View& w_;
};

/// The power of two that makes elements whole numbers, and its inverse, which is NaN where one is not finite.
struct DigitUnit {
  float inverse, unit;
};
/// Of columns [first, last) of a row.
template <int kDigits, class T>
NIBBLE_HD DigitUnit digit_unit(const T* x, int k, int first, int last) {
  __m512i magnitudes = _mm512_setzero_si512();
  for (int i = first; i < last; i += 16) {
    const __m512 magnitude = _mm512_abs_ps(load_elements<Int8Row>(x, k, i).lanes);
    magnitudes = _mm512_max_epi32(magnitudes, _mm512_castps_si512(magnitude));  // as whole numbers NaNs are the largest
  }
  const int largest = _mm512_reduce_max_epi32(magnitudes);
  constexpr int kInfinity = 0x7f800000, kMantissaBits = 23, kBias = 127;
  constexpr int kRoom = 1 << (kMantissaBits - 6);  // signed digits end at 255/256 of a power of two
  constexpr int kLeast = kBias - 90;               // below it the inverse would be infinite
  constexpr int kPlaces = 8 * kDigits - 2;
  const int exponent = static_cast<int>((static_cast<unsigned>(largest) + kRoom) >> kMantissaBits);
  const int upper = exponent < kLeast ? kLeast : exponent;
  const auto power = [](int biased) { return __builtin_bit_cast(float, biased << kMantissaBits); };
  return {power(kPlaces + 2 * kBias - upper), largest < kInfinity ? power(upper - kPlaces) : __builtin_nanf("")};
}

/// The digits of columns [first, first + kTileLine) of a row, the highest first; zeros beyond the last.
template <int kDigits, class T>
NIBBLE_HD void round_to_digits(const T* x, int k, int first, float inverse, int row,
                               std::int8_t (&digits)[kDigits][kTile][kTileLine]) {
  // With half of 256 added to each, digits have no sign.
  const __m512i halves = _mm512_set1_epi32(0x808080 & ((1 << 8 * kDigits) - 1));
  for (int begin = 0; begin < kTileLine; begin += 16) {
    const F32x16 values = load_elements<Int8Row>(x, k, first + begin) * broadcast(inverse);
    const __m512i whole = _mm512_cvtps_epi32(values.lanes);
    const __m512i bytes = _mm512_xor_si512(_mm512_add_epi32(whole, halves), halves);
    for (int digit = 0; digit < kDigits; ++digit) {
      const __m512i lowest = _mm512_srli_epi32(bytes, static_cast<unsigned>(8 * (kDigits - 1 - digit)));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(digits[digit][row] + begin), _mm512_cvtepi32_epi8(lowest));
    }
  }
}

/// What a line of bytes of x adds to sums because those of w are larger.
template <class Tiles>
NIBBLE_HD I32x16 times_offset(const char* line) {
  const __m512i offset = _mm512_set1_epi8(static_cast<char>(Tiles::kWeightOffset));
  I32x16 sums{};
  for (int word = 0; word < kTile; ++word) {
    sums = Tiles::accumulate(sums, offset, Tiles::load_line(line + word * kTileLine));
  }
  return sums;
}

/// Up to sixteen rows of x from `row` on. Digits and units take less than half of the room that packed rows have.
template <class Layout, class T>
void pack_tile_of_digits(const T* x, int k, int rows, int row, void* packed) {
  using Tiles = DigitTiles<T>;
  const int count = rows - row < kTile ? rows - row : kTile;
  const int lines = lines_of<Tiles>(k);
  auto* out = static_cast<char*>(packed);
  std::int8_t digits[Tiles::kDigits][kTile][kTileLine] = {};
  for (int block = 0; block < lines; block += Tiles::kBlockLines) {
    const int end = lines - block < Tiles::kBlockLines ? lines : block + Tiles::kBlockLines;
    auto* const blocks = reinterpret_cast<DigitBlock<Tiles>*>(out + place_of_blocks<Tiles>(lines, rows, block));
    auto& here = blocks[row / kTile];
    here = {};
    float inverses[kTile] = {};
    for (int i = 0; i < count; ++i) {
      const auto [inverse, unit] =
          digit_unit<Tiles::kDigits>(x + std::ptrdiff_t{i} * k, k, block * kTileLine, end * kTileLine);
      inverses[i] = inverse;
      here.units[i] = unit;
    }
    for (int line = block; line < end; ++line) {
      for (int i = 0; i < count; ++i) {
        round_to_digits(x + std::ptrdiff_t{i} * k, k, line * kTileLine, inverses[i], i, digits);
      }
      for (int digit = 0; digit < Tiles::kDigits; ++digit) {
        const int tile = row / kTile * Tiles::kDigits + digit;
        char* const to = out + place_in_tiles<Tiles>(lines, rows, tile, line);
        transpose_words(digits[digit], kTileLine, to);
        if constexpr (Tiles::kWeightOffset != 0) {
          store(here.offsets[digit], load(here.offsets[digit]) + times_offset<Tiles>(to));
        }
      }
    }
  }
}

template <class Layout, class T>
void multiply_by_tiles_of_digits(const LinearTask<Layout, T>& task, int first, int last, void* scratch) {
  multiply_by_tiles<DigitTiles<T>>(task, first, last, scratch, ByteGroups<DigitTiles<T>>(task.weight));
}

/// Up to sixteen rows of x from `row` on, in a byte each.
template <class Layout, class T>
void pack_tile_of_bytes(const T* x, int k, int rows, int row, void* packed) {
  using Tiles = ByteTiles<1>;
  const int count = rows - row < kTile ? rows - row : kTile;
  const int lines = lines_of<Tiles>(k);
  auto* out = static_cast<char*>(packed);
  const auto state = [&](int i) __attribute__((always_inline))->BytesRow& {
    return *reinterpret_cast<BytesRow*>(out + place_of_bytes_row(bytes_in_tiles<Tiles>(lines, rows), k, row + i));
  };
  for (int i = 0; i < count; ++i) begin_bytes_row<Layout>(x + std::ptrdiff_t{i} * k, k, state(i));
  std::int8_t bytes[kTile][kTileLine] = {};
  I32x16 offsets{};
  for (int line = 0; line < lines; ++line) {
    for (int i = 0; i < count; ++i) {
      round_to_bytes<Layout>(x + std::ptrdiff_t{i} * k, k, line * kTileLine, state(i), bytes[i]);
    }
    char* const to = out + place_in_tiles<Tiles>(lines, rows, row / kTile, line);
    transpose_words(bytes, kTileLine, to);
    if constexpr (Tiles::kWeightOffset != 0) offsets = offsets + times_offset<Tiles>(to);
  }
  std::int32_t of_rows[kTile];
  store(of_rows, offsets);
  for (int i = 0; i < count; ++i) state(i).lanes[0] = of_rows[i];
}

template <class Layout, class T>
void multiply_by_tiles_of_bytes(const LinearTask<Layout, T>& task, int first, int last, void* scratch) {
  using Tiles = ByteTiles<1>;
  auto& room = *static_cast<TileScratch*>(scratch);
  const auto* x = static_cast<const char*>(task.x);
  add_up_tiles<Tiles, Int8Row>(task.weight, x, task.rows, first, last, room, ByteGroups<Tiles>(task.weight));
  const std::ptrdiff_t bytes = bytes_in_tiles<Tiles>(lines_of<Tiles>(task.weight.k), task.rows);
  for_sums(
      room, task.rows, first,
      last, [&](const F32x16& sums, int row, int begin, int count) __attribute__((always_inline)) {
        const auto& state = *reinterpret_cast<const BytesRow*>(x + place_of_bytes_row(bytes, task.weight.k, row));
        const I32x16 products = I32x16{_mm512_castps_si512(sums.lanes)} - I32x16{_mm512_set1_epi32(state.lanes[0])};
        finish_bytes(task, products, state, row, begin, count);
      });
}

template <class Layout, class T>
constexpr void use_tiles_of_digits(LinearKernels<Layout, T>& kernels, int most_few) {
  kernels.many = {kTile, turn_of_tiles<DigitTiles<T>>, pack_tile_of_digits<Layout, T>,
                  multiply_by_tiles_of_digits<Layout, T>};
  kernels.most_few = most_few;
}

template <class Layout, class T>
constexpr void use_tiles_of_bytes(LinearKernels<Layout, T>& kernels, int most_few) {
  kernels.many = {kTile, turn_of_tiles<ByteTiles<1>>, pack_tile_of_bytes<Layout, T>,
                  multiply_by_tiles_of_bytes<Layout, T>};
  kernels.most_few = most_few;
}

}  // namespace
}  // namespace nibble
