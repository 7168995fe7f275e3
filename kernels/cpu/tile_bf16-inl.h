// Tiles of bf16: terms of rows of x as columns, and of weights, decoded.
#pragma once

namespace nibble {
namespace {

/// Sixteen lines of sixteen 32-bit words, `stride` bytes apart, as columns. kApart: pairs of words of 16 bits are taken
/// four apart, of each eight words 0 and 4, 1 and 5, 2 and 6, 3 and 7.
template <bool kApart>
NIBBLE_HD void transpose(const void* lines, std::ptrdiff_t stride, __m512i (&columns)[kTile]) {
  const __m512i apart = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
  transpose_words(
      lines, stride, columns, [&](__m512i four) __attribute__((always_inline)) {
        return kApart ? _mm512_shuffle_epi8(four, apart) : four;
      });
}

/// A number as a sum of bf16: its rounding, that of what is left, and so on. Three terms have all 24 bits of fp32, two
/// all 11 of fp16. What is not finite, or rounds to that, leaves NaNs.
template <int kTerms>
NIBBLE_HD void split(const F32x16& first, const F32x16& second, Bf16x32 (&terms)[kTerms]) {
  F32x16 left[2] = {first, second};
  for (int i = 0; i < kTerms; ++i) {
    terms[i] = make_operand<Bf16x32>(left[0], left[1]);
    const auto bits = reinterpret_cast<__m512i>(terms[i].pairs);
    const auto widened = [](__m256i half) __attribute__((always_inline)) {
      return F32x16{_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
    };
    left[0] = left[0] - widened(_mm512_castsi512_si256(bits));
    left[1] = left[1] - widened(_mm512_extracti64x4_epi64(bits, 1));
  }
}

/// Sixteen weights in bf16 for each quarter of a group.
struct QuarterTables {
  __m512i first, second;  ///< of two quarters each

  NIBBLE_HD QuarterTables(const Bf16x32& of_first, const Bf16x32& of_second)
      : first(reinterpret_cast<__m512i>(of_first.pairs)), second(reinterpret_cast<__m512i>(of_second.pairs)) {}

  /// A part of a group of 64 bytes of codes.
  NIBBLE_HD Bf16x32 lookup(const std::uint8_t* codes, int part) const {
    const __m512i nibbles = _mm512_srli_epi16(_mm512_loadu_si512(codes), static_cast<unsigned>(4 * part));
    const __m512i odd_quarters = _mm512_maskz_set1_epi16(0xff00ff00, 16);
    const __m512i places = _mm512_ternarylogic_epi32(nibbles, _mm512_set1_epi16(15), odd_quarters, 0xea);
    const __m512i found = _mm512_permutexvar_epi16(places, first);
    return {reinterpret_cast<__m512bh>(_mm512_mask_permutexvar_epi16(found, 0xffff0000, places, second))};
  }
};

/// Terms of 32 numbers, of which `count` exist; the others are zero.
template <class T, int kTerms>
NIBBLE_HD void load_terms(const T* values, int count, Bf16x32 (&terms)[kTerms]) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    const auto exist = static_cast<__mmask32>(count >= kPart ? 0xffffffffU : count <= 0 ? 0 : (1U << count) - 1);
    terms[0] = {reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi16(exist, values))};
  } else {
    const auto some = [&](int first) __attribute__((always_inline)) {
      const int left = count - first;
      return left <= 0 ? broadcast(0) : load_some(values + first, left < 16 ? left : 16);
    };
    split(some(0), some(16), terms);
  }
}

/// One term of up to sixteen rows of x, of each a group of 128 columns from `rows` on, to tiles, of which each is that
/// of the term: in the order the decoder gives factors in.
template <class Layout, int kTileTerms>
NIBBLE_HD void pack_group(const BFloat16* rows, std::ptrdiff_t stride, char* tiles) {
  using Decoder = GroupDecoder<Layout>;
  constexpr bool kApart = Decoder::template place<Bf16x32>(1) != Decoder::template place<Bf16x32>(0) + 1;
  for (int part = 0; part < kParts; ++part) {
    __m512i columns[kTile];
    transpose<kApart>(rows + part * kPart, stride * std::ptrdiff_t{sizeof(BFloat16)}, columns);
    for (int i = 0; i < kTile; ++i) {
      const int to = Decoder::template place<Bf16x32>(part * kPart + (kApart ? i / 4 * 8 + i % 4 : 2 * i));
      _mm512_storeu_si512(tiles + to / kPart * kTileTerms * kTileBytes + to % kPart / 2 * kTileLine, columns[i]);
    }
  }
}

/// Up to sixteen rows of x from `row` on.
template <class Layout, class T>
void pack_tile_of_bf16(const T* x, int k, int rows, int row, void* packed) {
  using Tiles = TilesOf<Layout, T>;
  constexpr int kTermsHere = Tiles::kFactorTerms;
  const int count = rows - row < kTile ? rows - row : kTile;
  for (int group = 0; group < groups_of(k); ++group) {
    const T* from = x + group * kGroup;
    const int left = k - group * kGroup;
    char* tiles =
        static_cast<char*>(packed) + place_in_tiles<Tiles>(lines_of<Tiles>(k), rows, row / kTile, group * kParts);
    if constexpr (std::is_same_v<T, BFloat16>) {
      if (count == kTile && left >= kGroup) {
        pack_group<Layout, kTermsHere>(from, k, tiles);
        continue;
      }
    }
    BFloat16 terms[kTermsHere][kTile][kGroup] = {};
    for (int i = 0; i < count; ++i) {
      for (int col = 0; col < kGroup; col += kPart) {
        Bf16x32 parts[kTermsHere];
        load_terms(from + std::ptrdiff_t{i} * k + col, left - col, parts);
        for (int term = 0; term < kTermsHere; ++term) store_operand(terms[term][i] + col, parts[term]);
      }
    }
    for (int term = 0; term < kTermsHere; ++term) {
      pack_group<Layout, kTermsHere>(terms[term][0], kGroup, tiles + term * kTileBytes);
    }
  }
}

/// Groups of rows up to `last` of w, term t of part p in lines[p * kTerms + t].
template <class Layout, int kTerms>
class Bf16Groups {
 public:
  NIBBLE_HD Bf16Groups(const typename Layout::View& w, int last)
      : w_(Decoder::template prepared<F32x32>(w)), fast_(Decoder::fast_groups(w, last)) {}

  NIBBLE_HD void operator()(std::int64_t row, int group, Strided<char> lines) const {
    if (group < fast_) {
      decode(row, group, lines);
    } else {
      decode_slowly(row, group, lines);
    }
  }

 private:
  using Decoder = GroupDecoder<Layout>;
  using Prepared = decltype(Decoder::template prepared<F32x32>(std::declval<const typename Layout::View&>()));

  NIBBLE_HD void decode(std::int64_t row, int group, Strided<char> lines) const {
    const auto put = [&](int part, const Bf16x32& weights, int term = 0) __attribute__((always_inline)) {
      store_operand(reinterpret_cast<BFloat16*>(lines[part * kTerms + term]), weights);
    };
    if constexpr (Decoder::kScaled) {
      float scales[16], zeros[16] = {};
      store(scales, Decoder::scale(w_, row, group));
      if constexpr (!std::is_same_v<typename Decoder::ZeroLanes, NoZeros>) {
        store(zeros, Decoder::zeros(w_, row, group));
      }
      F32x16 levels[4];
      for (int quarter = 0; quarter < 4; ++quarter) {
        levels[quarter] = (w_.table - broadcast(zeros[4 * quarter])) * broadcast(scales[4 * quarter]);
      }
      Bf16x32 halves[2][kTerms];
      split(levels[0], levels[1], halves[0]);
      split(levels[2], levels[3], halves[1]);
      const auto* codes = static_cast<const std::uint8_t*>(Decoder::row_codes(w_, row)) + group * Decoder::kGroupBytes;
      for (int term = 0; term < kTerms; ++term) {
        const QuarterTables tables(halves[0][term], halves[1][term]);
        for (int part = 0; part < kParts; ++part) put(part, tables.lookup(codes, part), term);
      }
    } else if constexpr (kTerms == 1) {
      for (int part = 0; part < kParts; ++part) put(part, Decoder::template decode<Bf16x32>(w_, row, group, part));
    } else {
      for (int part = 0; part < kParts; ++part) {
        const auto weights = Decoder::template decode<F32x32>(w_, row, group, part);
        Bf16x32 terms[kTerms];
        split(weights.first, weights.second, terms);
        for (int term = 0; term < kTerms; ++term) put(part, terms[term], term);
      }
    }
  }

  /// One weight at a time, zero beyond the last.
  [[gnu::noinline]] void decode_slowly(std::int64_t row, int group, Strided<char> lines) const {
    float values[kGroup] = {};
    const int count = w_.k - group * kGroup < kGroup ? w_.k - group * kGroup : kGroup;
    for (int i = 0; i < count; ++i) {
      const int col = group * kGroup + i;
      values[Decoder::template place<Bf16x32>(i)] =
          Decoder::kScaled ? w_.decode(row, col) : Decoder::factor(w_, row, col);
    }
    for (int part = 0; part < kParts; ++part) {
      const float* from = values + part * kPart;
      Bf16x32 terms[kTerms];
      split(load(from), load(from + 16), terms);
      for (int term = 0; term < kTerms; ++term) {
        store_operand(reinterpret_cast<BFloat16*>(lines[part * kTerms + term]), terms[term]);
      }
    }
  }

  Prepared w_;
  int fast_;
};

template <class Layout, class T>
void multiply_by_tiles_of_bf16(const LinearTask<Layout, T>& task, int first, int last, void* scratch) {
  using Tiles = TilesOf<Layout, T>;
  multiply_by_tiles<Tiles>(task, first, last, scratch, Bf16Groups<Layout, Tiles::kWeightTerms>(task.weight, last - 1));
}

template <class Layout, class T>
constexpr void use_tiles_of_bf16(LinearKernels<Layout, T>& kernels, int most_few) {
  kernels.many = {kTile, turn_of_tiles<TilesOf<Layout, T>>, pack_tile_of_bf16<Layout, T>,
                  multiply_by_tiles_of_bf16<Layout, T>};
  kernels.most_few = most_few;
}

}  // namespace
}  // namespace nibble
