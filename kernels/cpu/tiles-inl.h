// y = epilogue(x w^T + bias) through tiles, for rows of long segments.
//
// A product of one row of x and one row of w is added up in the order of columns, a line of 64 bytes at a time,
// whatever else is in its tiles; so here too a result depends on nothing but its two rows. A weight is View::decode,
// and like a number of x the sum of as many bf16 as it takes to have the compute dtype's bits: products of fp32 are
// those of three. int8 weights are in tile_bytes-inl.h.
#pragma once

namespace nibble {
namespace {

/// Terms that have the bits of a number, and those of a layout's weights.
template <class T>
constexpr int kTermsOf = 3;
template <>
constexpr int kTermsOf<Half> = 2;
template <>
constexpr int kTermsOf<BFloat16> = 1;
template <class Layout>
constexpr int kLayoutTerms = 3;
template <class T>
constexpr int kLayoutTerms<Dense<T>> = kTermsOf<T>;

template <class Layout, class T>
using TilesOf = Bf16Tiles<(kLayoutTerms<Layout> < kTermsOf<T> ? kLayoutTerms<Layout> : kTermsOf<T>), kTermsOf<T>>;

/// Lines of a block, so that a panel is 16 to 24 KiB.
template <class Tiles>
constexpr int kTileBlock = Tiles::kWeightTerms == 1 ? 8 : 4;
/// Rows of w that are decoded at once, and of one task at most; rows of x of one turn at most.
constexpr int kTilePanelRows = 2 * kTile;
constexpr int kTileTaskRows = 128;
constexpr int kMostTileTurnRows = 256;
template <class Tiles>
constexpr int kTileTurnRows = Tiles::kFactorTerms* Tiles::kDigits == 1 ? kMostTileTurnRows : kPackedRows;

/// Turns of about as many rows each.
template <class Tiles>
Turn turn_of_tiles(int left) {
  const int turns = (left + kTileTurnRows<Tiles> - 1) / kTileTurnRows<Tiles>;
  const int rows = padded_to((left + turns - 1) / turns, kTile);
  return {left < rows ? left : rows, kTileTaskRows};
}

/// Lines of a group, and of a row.
template <class Tiles>
constexpr int kGroupLines = kGroup* static_cast<int>(sizeof(typename Tiles::Element)) / kTileLine;
template <class Tiles>
constexpr int lines_of(int k) {
  return groups_of(k) * kGroupLines<Tiles>;
}

/// Tiles that rows of x are: kDigits for sixteen, one after the other.
template <class Tiles>
NIBBLE_HD int tiles_of(int rows) {
  return padded_to(rows, kTile) / kTile * Tiles::kDigits;
}

/// Rows of x in tiles, packed[blocks of lines, tiles of rows, lines, terms, kTileBytes]: where `line` of a tile is, and
/// how many bytes all are.
template <class Tiles>
NIBBLE_HD std::ptrdiff_t place_in_tiles(int lines, int rows, int tile, int line) {
  const int block = line / kTileBlock<Tiles> * kTileBlock<Tiles>;
  const int here = lines - block < kTileBlock<Tiles> ? lines - block : kTileBlock<Tiles>;
  return (std::ptrdiff_t{block} * tiles_of<Tiles>(rows) + tile * here + line - block) * Tiles::kFactorTerms *
         kTileBytes;
}
template <class Tiles>
NIBBLE_HD std::ptrdiff_t bytes_in_tiles(int lines, int rows) {
  return std::ptrdiff_t{lines} * tiles_of<Tiles>(rows) * Tiles::kFactorTerms * kTileBytes;
}

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
void pack_tile(const T* x, int k, int rows, int row, void* packed) {
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

/// Lines of some rows of w, a block of them for a panel: kWeightTerms for each line of x.
using PanelLine = char[kTilePanelRows][kTileLine];
constexpr int kMostPanelLines = 12;

/// Tiles of digits that are multiplied before their sums are joined: of two tiles of rows, so that they are pairs.
constexpr int kMostDigitTiles = 6;

/// A thread's working memory: the panel that is multiplied, the one that is decoded meanwhile, and the sums of a task.
struct alignas(64) TileScratch {
  PanelLine panels[2][kMostPanelLines];
  char sums[kTileTaskRows / kTile][kMostTileTurnRows / kTile][kTileBytes];
  char digits[kTilePanelRows / kTile][kMostDigitTiles][kTileBytes];  ///< sums of a block's digits, for some rows of x
};
static_assert(sizeof(TileScratch) <= kMultiplyScratchBytes, "it has room");

/// Which panel of a task: rows of w from `row` on, their lines from `line` on.
struct PanelPlace {
  int row, line;
};

/// A panel that is decoded in shares, so that they pass beside the multiplications of another; as it is, memory is
/// asked for the one behind it.
template <class Tiles, class Layout, class Decode>
class PanelInShares {
 public:
  NIBBLE_HD PanelInShares(const typename Layout::View& w, PanelPlace place, int rows, int lines, PanelPlace behind,
                          PanelLine* panel, int shares, const Decode& decode)
      : w_(w),
        decode_(decode),
        panel_(panel),
        place_(place),
        behind_(behind),
        groups_(lines / kGroupLines<Tiles>),
        pieces_(rows * groups_),
        shares_(shares) {}

  NIBBLE_HD void share() {
    for (due_ += pieces_; due_ >= shares_; due_ -= shares_) {
      const void* codes = Decoder::row_codes(w_, behind_.row + row_);
      const int group_behind = behind_.line / kGroupLines<Tiles> + group_;
      prefetch<Decoder::kGroupBytes>(static_cast<const char*>(codes) + group_behind * Decoder::kGroupBytes);
      if (group_behind % kScalesAhead == 0) Decoder::prefetch_scales(w_, behind_.row + row_, group_behind);
      decode_(place_.row + row_, place_.line / kGroupLines<Tiles> + group_,
              reinterpret_cast<PanelLine*>(panel_[group_ * kGroupLines<Tiles> * Tiles::kWeightTerms][row_]));
      if (++group_ == groups_) {
        group_ = 0;
        ++row_;
      }
    }
  }

 private:
  using Decoder = GroupDecoder<Layout>;
  const typename Layout::View& w_;
  const Decode& decode_;
  PanelLine* panel_;
  PanelPlace place_, behind_;
  int groups_, pieces_, shares_, due_ = 0, row_ = 0, group_ = 0;
};

/// Where it is said, behind the digits of x, what whole numbers are worth in a block of lines from `line` on: an fp32
/// for each row.
template <class Tiles>
NIBBLE_HD std::ptrdiff_t place_of_units(int lines, int rows, int line) {
  return bytes_in_tiles<Tiles>(lines, rows) +
         std::ptrdiff_t{line / kTileBlock<Tiles>} * padded_to(rows, kTile) * std::ptrdiff_t{sizeof(float)};
}

/// Adds a block's sums of digits, the highest first, to a tile of sums in fp32, or begins it: sixteen rows of w by
/// sixteen of x.
template <int kDigits>
NIBBLE_HD void join_digits(const char (*digits)[kTileBytes], const float* units, char* sums, bool begin) {
  for (int line = 0; line < kTileBytes; line += kTileLine) {
    const auto sums_of = [&](int digit) __attribute__((always_inline)) {
      return to_f32(I32x16{_mm512_loadu_si512(digits[digit] + line)});
    };
    F32x16 whole = sums_of(0);
    for (int digit = 1; digit < kDigits; ++digit) whole = fma(whole, broadcast(256), sums_of(digit));
    const F32x16 before = begin ? broadcast(0) : F32x16{_mm512_loadu_ps(sums + line)};
    _mm512_storeu_ps(sums + line, fma(whole, load(units), before).lanes);
  }
}

/// Adds up the products of rows [first, last) of w. decode(row, group, lines) puts a group of a row into a panel.
template <class Tiles, class Layout, class T, class Decode>
NIBBLE_HD void add_up_tiles(const LinearTask<Layout, T>& task, int first, int last, TileScratch& scratch,
                            const Decode& decode) {
  static_assert(kTileBlock<Tiles> * Tiles::kWeightTerms <= kMostPanelLines);
  begin_tiles();
  const int lines = lines_of<Tiles>(task.weight.k);
  const int tiles = tiles_of<Tiles>(task.rows);
  const auto rows_of = [&](PanelPlace place) {
    return last - place.row < kTilePanelRows ? last - place.row : kTilePanelRows;
  };
  const auto lines_at = [&](PanelPlace place) {
    return lines - place.line < kTileBlock<Tiles> ? lines - place.line : kTileBlock<Tiles>;
  };
  // Blocks of columns one after the other; then comes {last, 0}, which has no rows here and is where the next task is.
  const auto after = [&](PanelPlace place) {
    if (place.row + kTilePanelRows < last) return PanelPlace{place.row + kTilePanelRows, place.line};
    return place.line + kTileBlock<Tiles> < lines ? PanelPlace{first, place.line + kTileBlock<Tiles>}
                                                  : PanelPlace{last, 0};
  };
  const auto in_shares = [&](PanelPlace place, PanelLine * panel, int shares) __attribute__((always_inline)) {
    return PanelInShares<Tiles, Layout, Decode>(task.weight, place, rows_of(place), lines_at(place), after(place),
                                                panel, shares, decode);
  };

  PanelPlace place{first, 0};
  in_shares(place, scratch.panels[0], 1).share();
  for (int i = 0; rows_of(place) > 0; i = 1 - i, place = after(place)) {
    memory_is_as_written();
    const int here = lines_at(place);
    auto next = in_shares(after(place), scratch.panels[1 - i], (tiles + 1) / 2 * here * kLineProducts<Tiles>);
    const char* w = scratch.panels[i][0][0];
    const char* x = static_cast<const char*>(task.x) + place_in_tiles<Tiles>(lines, task.rows, 0, place.line);
    auto* sums = scratch.sums + (place.row - first) / kTile;
    const auto beside = [&]() __attribute__((always_inline)) { next.share(); };
    const auto multiply = [&]<int N>() __attribute__((always_inline)) {
      const auto add = [&](int tile, int count, auto* to, bool begin) __attribute__((always_inline)) {
        const auto at = [&]<int M>(int i) __attribute__((always_inline)) {
          const std::ptrdiff_t stride = std::ptrdiff_t{here} * Tiles::kFactorTerms * kTileBytes;
          multiply_tiles<Tiles, N, M>(w, {x + (tile + i) * stride, stride}, here, {to[0][i], sizeof to[0]}, begin,
                                      beside);
        };
        int i = 0;
        for (; i + 2 <= count; i += 2) at.template operator()<2>(i);
        if (i < count) at.template operator()<1>(i);
      };
      if constexpr (Tiles::kDigits == 1) {
        add(0, tiles, sums, place.line == 0);
      } else {
        const auto* units = reinterpret_cast<const float*>(static_cast<const char*>(task.x) +
                                                           place_of_units<Tiles>(lines, task.rows, place.line));
        constexpr int kStep = kMostDigitTiles / Tiles::kDigits;
        for (int tile = 0; tile < tiles / Tiles::kDigits; tile += kStep) {
          const int rest = tiles / Tiles::kDigits - tile;
          const int count = rest < kStep ? rest : kStep;
          add(tile * Tiles::kDigits, count * Tiles::kDigits, scratch.digits, true);
          for (int n = 0; n < N; ++n) {
            for (int j = 0; j < count; ++j) {
              join_digits<Tiles::kDigits>(scratch.digits[n] + j * Tiles::kDigits, units + (tile + j) * kTile,
                                          sums[n][tile + j], place.line == 0);
            }
          }
        }
      }
    };
    if (rows_of(place) > kTile) {
      multiply.template operator()<2>();
    } else {
      multiply.template operator()<1>();
    }
  }
  memory_is_as_written();
  end_tiles();
}

/// Calls finish(sums of up to sixteen rows of w, row of x, first of w, count) for rows [first, last) of w: row after
/// row of x, whose results are one stretch of memory.
template <class F>
NIBBLE_HD void for_sums(const TileScratch& scratch, int rows, int first, int last, F&& finish) {
  for (int row = 0; row < rows; row += kTile) {
    const int here = rows - row < kTile ? rows - row : kTile;
    for (int begin = first; begin < last; begin += kTile) {
      const int count = last - begin < kTile ? last - begin : kTile;
      __m512i sums[kTile];
      transpose<false>(scratch.sums[(begin - first) / kTile][row / kTile], kTileLine, sums);
      for (int i = 0; i < here; ++i) finish(sums[i], row + i, begin, count);
    }
  }
}

/// One group of one row of w, term t of part p in lines[p * kTerms + t].
template <class Layout, int kTerms, class Tables>
NIBBLE_HD void decode_group(const Tables& w, std::int64_t row, int group, PanelLine* lines) {
  using Decoder = GroupDecoder<Layout>;
  const auto put = [&](int part, const Bf16x32& weights, int term = 0) __attribute__((always_inline)) {
    store_operand(reinterpret_cast<BFloat16*>(lines[part * kTerms + term][0]), weights);
  };
  if constexpr (Decoder::kScaled) {
    float scales[16], zeros[16] = {};
    store(scales, Decoder::scale(w, row, group));
    if constexpr (!std::is_same_v<typename Decoder::ZeroLanes, NoZeros>) store(zeros, Decoder::zeros(w, row, group));
    F32x16 levels[4];
    for (int quarter = 0; quarter < 4; ++quarter) {
      levels[quarter] = (w.table - broadcast(zeros[4 * quarter])) * broadcast(scales[4 * quarter]);
    }
    Bf16x32 halves[2][kTerms];
    split(levels[0], levels[1], halves[0]);
    split(levels[2], levels[3], halves[1]);
    const auto* codes = static_cast<const std::uint8_t*>(Decoder::row_codes(w, row)) + group * Decoder::kGroupBytes;
    for (int term = 0; term < kTerms; ++term) {
      const QuarterTables tables(halves[0][term], halves[1][term]);
      for (int part = 0; part < kParts; ++part) put(part, tables.lookup(codes, part), term);
    }
  } else if constexpr (kTerms == 1) {
    for (int part = 0; part < kParts; ++part) put(part, Decoder::template decode<Bf16x32>(w, row, group, part));
  } else {
    for (int part = 0; part < kParts; ++part) {
      const auto weights = Decoder::template decode<F32x32>(w, row, group, part);
      Bf16x32 terms[kTerms];
      split(weights.first, weights.second, terms);
      for (int term = 0; term < kTerms; ++term) put(part, terms[term], term);
    }
  }
}

/// The same one weight at a time, zero beyond the last.
template <class Layout, int kTerms>
void decode_group_slowly(const typename Layout::View& w, std::int64_t row, int group, PanelLine* lines) {
  using Decoder = GroupDecoder<Layout>;
  float values[kGroup] = {};
  const int count = w.k - group * kGroup < kGroup ? w.k - group * kGroup : kGroup;
  for (int i = 0; i < count; ++i) {
    values[Decoder::template place<Bf16x32>(i)] = w.decode(row, group * kGroup + i);
  }
  for (int part = 0; part < kParts; ++part) {
    const float* from = values + part * kPart;
    Bf16x32 terms[kTerms];
    split(load(from), load(from + 16), terms);
    for (int term = 0; term < kTerms; ++term) {
      store_operand(reinterpret_cast<BFloat16*>(lines[part * kTerms + term][0]), terms[term]);
    }
  }
}

template <class Layout, class T>
void multiply_by_tiles(const LinearTask<Layout, T>& task, int first, int last, void* scratch) {
  using Decoder = GroupDecoder<Layout>;
  using Tiles = TilesOf<Layout, T>;
  auto& room = *static_cast<TileScratch*>(scratch);
  const auto& w = Decoder::template prepared<F32x32>(task.weight);
  const int fast = Decoder::fast_groups(w, last - 1);
  add_up_tiles<Tiles>(task, first, last, room, [&](int row, int group, PanelLine* lines) {
    if (group < fast) {
      decode_group<Layout, Tiles::kWeightTerms>(w, row, group, lines);
    } else {
      decode_group_slowly<Layout, Tiles::kWeightTerms>(w, row, group, lines);
    }
  });
  for_sums(
      room, task.rows, first, last, [&](__m512i sums, int row, int begin, int count) __attribute__((always_inline)) {
        finish_products(task, F32x16{_mm512_castsi512_ps(sums)}, row, begin, count);
      });
}

}  // namespace
}  // namespace nibble
