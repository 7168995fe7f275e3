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

/// A group of a row as it is, zero beyond the last column.
inline void copy_group(const Int8Row::View& w, std::int64_t row, int group, PanelLine* lines) {
  const std::int8_t* codes = w.codes + row * w.k + group * kGroup;
  const int left = w.k - group * kGroup;
  std::int8_t some[kGroup];
  if (left < kGroup) {
    for (int i = 0; i < kGroup; ++i) some[i] = i < left ? codes[i] : std::int8_t{0};
    codes = some;
  }
  for (int line = 0; line < kGroup / kTileLine; ++line) {
    _mm512_storeu_si512(lines[line][0], _mm512_loadu_si512(codes + line * kTileLine));
  }
}

template <class Tiles, class Layout, class T>
void add_up_bytes(const LinearTask<Layout, T>& task, int first, int last, TileScratch& room) {
  const Int8Row::View& w = task.weight;
  add_up_tiles<Tiles>(task, first, last, room,
                      [&](int row, int group, PanelLine* lines) { copy_group(w, row, group, lines); });
}

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

/// Up to sixteen rows of x from `row` on. Digits and units take less than half of the room that packed rows have.
template <class Layout, class T>
void pack_tile_of_digits(const T* x, int k, int rows, int row, void* packed) {
  using Tiles = DigitTiles<T>;
  const int count = rows - row < kTile ? rows - row : kTile;
  const int lines = lines_of<Tiles>(k);
  auto* out = static_cast<char*>(packed);
  std::int8_t digits[Tiles::kDigits][kTile][kTileLine] = {};
  for (int block = 0; block < lines; block += kTileBlock<Tiles>) {
    const int end = lines - block < kTileBlock<Tiles> ? lines : block + kTileBlock<Tiles>;
    float inverses[kTile] = {}, units[kTile] = {};
    for (int i = 0; i < count; ++i) {
      const auto [inverse, unit] =
          digit_unit<Tiles::kDigits>(x + std::ptrdiff_t{i} * k, k, block * kTileLine, end * kTileLine);
      inverses[i] = inverse;
      units[i] = unit;
    }
    store(reinterpret_cast<float*>(out + place_of_units<Tiles>(lines, rows, block)) + row, load(units));
    for (int line = block; line < end; ++line) {
      for (int i = 0; i < count; ++i) {
        round_to_digits(x + std::ptrdiff_t{i} * k, k, line * kTileLine, inverses[i], i, digits);
      }
      for (int digit = 0; digit < Tiles::kDigits; ++digit) {
        const int tile = row / kTile * Tiles::kDigits + digit;
        transpose_to_tile(digits[digit], kTileLine, out + place_in_tiles<Tiles>(lines, rows, tile, line));
      }
    }
  }
}

template <class Layout, class T>
void multiply_by_tiles_of_digits(const LinearTask<Layout, T>& task, int first, int last, void* scratch) {
  using Tiles = DigitTiles<T>;
  auto& room = *static_cast<TileScratch*>(scratch);
  add_up_bytes<Tiles>(task, first, last, room);
  for_sums(
      room, task.rows, first, last, [&](__m512i sums, int row, int begin, int count) __attribute__((always_inline)) {
        const F32x16 products{_mm512_castsi512_ps(sums)};
        finish_products(task, GroupDecoder<Layout>::finished(task.weight, products, begin, count), row, begin, count);
      });
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
  for (int line = 0; line < lines; ++line) {
    for (int i = 0; i < count; ++i) {
      round_to_bytes<Layout>(x + std::ptrdiff_t{i} * k, k, line * kTileLine, state(i), bytes[i]);
    }
    transpose_to_tile(bytes, kTileLine, out + place_in_tiles<Tiles>(lines, rows, row / kTile, line));
  }
}

template <class Layout, class T>
void multiply_by_tiles_of_bytes(const LinearTask<Layout, T>& task, int first, int last, void* scratch) {
  using Tiles = ByteTiles<1>;
  auto& room = *static_cast<TileScratch*>(scratch);
  add_up_bytes<Tiles>(task, first, last, room);
  const auto* x = static_cast<const char*>(task.x);
  const std::ptrdiff_t bytes = bytes_in_tiles<Tiles>(lines_of<Tiles>(task.weight.k), task.rows);
  for_sums(
      room, task.rows, first, last, [&](__m512i sums, int row, int begin, int count) __attribute__((always_inline)) {
        const auto& state = *reinterpret_cast<const BytesRow*>(x + place_of_bytes_row(bytes, task.weight.k, row));
        finish_bytes(task, I32x16{sums}, state, row, begin, count);
      });
}

}  // namespace
}  // namespace nibble
