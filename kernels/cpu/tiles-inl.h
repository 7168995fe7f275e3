// y = epilogue(x w^T + bias) through tiles, for rows of long segments.
//
// A product of one row of x and one row of w is added up in the order of columns, a line of 64 bytes at a time,
// whatever else is in its tiles; so here too a result depends on nothing but its two rows. A line is numbers of fp32
// (tile_f32-inl.h), of bf16 (tile_bf16-inl.h) or of a byte (tile_bytes-inl.h).
#pragma once

namespace nibble {
namespace {

/// Rows of w that are decoded at once, and of one task at most; rows of x of one turn at most.
constexpr int kTilePanelRows = 2 * kTile;
constexpr int kTileTaskRows = 128;
constexpr int kMostTileTurnRows = 256;
template <class Tiles>
constexpr int kTileTurnRows = Tiles::kFactorTerms* Tiles::kDigits == 1 &&
                                      sizeof(typename Tiles::Element) < sizeof(float)
                                  ? kMostTileTurnRows
                                  : kPackedRows;

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
  const int block = line / Tiles::kBlockLines * Tiles::kBlockLines;
  const int here = lines - block < Tiles::kBlockLines ? lines - block : Tiles::kBlockLines;
  return (std::ptrdiff_t{block} * tiles_of<Tiles>(rows) + tile * here + line - block) * Tiles::kFactorTerms *
         kTileBytes;
}
template <class Tiles>
NIBBLE_HD std::ptrdiff_t bytes_in_tiles(int lines, int rows) {
  return std::ptrdiff_t{lines} * tiles_of<Tiles>(rows) * Tiles::kFactorTerms * kTileBytes;
}

/// Where the lines of a row of a panel are, kWeightTerms for each of `lines` of x.
template <class Tiles>
NIBBLE_HD Strided<char> lines_of_row(char* panel, int lines, int row) {
  return {panel + row * Tiles::row_stride(lines), Tiles::kLineStride};
}
template <class Tiles>
constexpr std::ptrdiff_t panel_bytes(int lines) {
  return std::ptrdiff_t{lines} * Tiles::kWeightTerms * kTilePanelRows * kTileLine;
}
constexpr std::ptrdiff_t kMostPanelBytes = 64 << 10;

/// Tiles of digits that are multiplied before their sums are joined: of two tiles of rows, so that they are pairs.
constexpr int kMostDigitTiles = 6;

/// A thread's working memory: the panel that is multiplied, the one that is decoded meanwhile, and the sums of a task.
struct alignas(64) TileScratch {
  char panels[2][kMostPanelBytes];
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
                          char* panel, int shares, const Decode& decode)
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
              lines_of_row<Tiles>(panel_, groups_ * kGroupLines<Tiles>, row_)
                  .from(group_ * kGroupLines<Tiles> * Tiles::kWeightTerms));
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
  char* panel_;
  PanelPlace place_, behind_;
  int groups_, pieces_, shares_, due_ = 0, row_ = 0, group_ = 0;
};

/// What is said of sixteen rows of x in a block of lines, behind their digits: what whole numbers are worth, and what
/// each digit's sums are off by.
template <class Tiles>
struct DigitBlock {
  float units[kTile];
  std::int32_t offsets[Tiles::kDigits][kTile];
};
/// Where that is for the block from `line` on.
template <class Tiles>
NIBBLE_HD std::ptrdiff_t place_of_blocks(int lines, int rows, int line) {
  return bytes_in_tiles<Tiles>(lines, rows) + std::ptrdiff_t{line / Tiles::kBlockLines} *
                                                  (padded_to(rows, kTile) / kTile) *
                                                  std::ptrdiff_t{sizeof(DigitBlock<Tiles>)};
}

/// Adds a block's sums of digits, the highest first, to a tile of sums in fp32, or begins it: sixteen rows of w by
/// sixteen of x.
template <class Tiles>
NIBBLE_HD void join_digits(const char (*digits)[kTileBytes], const DigitBlock<Tiles>& block, char* sums, bool begin) {
  for (int line = 0; line < kTileBytes; line += kTileLine) {
    const auto sums_of = [&](int digit) __attribute__((always_inline)) {
      const I32x16 whole = load(reinterpret_cast<const std::int32_t*>(digits[digit] + line));
      if constexpr (Tiles::kWeightOffset == 0) return to_f32(whole);
      return to_f32(whole - load(block.offsets[digit]));
    };
    F32x16 whole = sums_of(0);
    for (int digit = 1; digit < Tiles::kDigits; ++digit) whole = fma(whole, broadcast(256), sums_of(digit));
    auto* place = reinterpret_cast<float*>(sums + line);
    store(place, fma(whole, load(block.units), begin ? broadcast(0) : load(place)));
  }
}

/// Adds up the products of rows [first, last) of w and `rows` of x, packed. decode(row, group, lines) puts a group of a
/// row into a panel. Not inlined: it serves all compute dtypes that have the same tiles.
template <class Tiles, class Layout, class Decode>
[[gnu::noinline]] void add_up_tiles(const typename Layout::View& weight, const char* packed, int rows, int first,
                                    int last, TileScratch& scratch, const Decode& decode) {
  static_assert(panel_bytes<Tiles>(Tiles::kBlockLines) <= kMostPanelBytes);
  begin_tiles();
  const int lines = lines_of<Tiles>(weight.k);
  const int tiles = tiles_of<Tiles>(rows);
  const auto rows_of = [&](PanelPlace place) {
    return last - place.row < kTilePanelRows ? last - place.row : kTilePanelRows;
  };
  const auto lines_at = [&](PanelPlace place) {
    return lines - place.line < Tiles::kBlockLines ? lines - place.line : Tiles::kBlockLines;
  };
  // Blocks of columns one after the other; then comes {last, 0}, which has no rows here and is where the next task is.
  const auto after = [&](PanelPlace place) {
    if (place.row + kTilePanelRows < last) return PanelPlace{place.row + kTilePanelRows, place.line};
    return place.line + Tiles::kBlockLines < lines ? PanelPlace{first, place.line + Tiles::kBlockLines}
                                                   : PanelPlace{last, 0};
  };
  const auto in_shares = [&](PanelPlace place, char* panel, int shares) __attribute__((always_inline)) {
    return PanelInShares<Tiles, Layout, Decode>(weight, place, rows_of(place), lines_at(place), after(place), panel,
                                                shares, decode);
  };

  PanelPlace place{first, 0};
  in_shares(place, scratch.panels[0], 1).share();
  for (int i = 0; rows_of(place) > 0; i = 1 - i, place = after(place)) {
    memory_is_as_written();
    const int here = lines_at(place);
    auto next = in_shares(after(place), scratch.panels[1 - i], (tiles + 1) / 2 * here * kLineProducts<Tiles>);
    const char* w = scratch.panels[i];
    const char* x = packed + place_in_tiles<Tiles>(lines, rows, 0, place.line);
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
        const auto* blocks =
            reinterpret_cast<const DigitBlock<Tiles>*>(packed + place_of_blocks<Tiles>(lines, rows, place.line));
        constexpr int kStep = kMostDigitTiles / Tiles::kDigits;
        for (int tile = 0; tile < tiles / Tiles::kDigits; tile += kStep) {
          const int rest = tiles / Tiles::kDigits - tile;
          const int count = rest < kStep ? rest : kStep;
          add(tile * Tiles::kDigits, count * Tiles::kDigits, scratch.digits, true);
          for (int n = 0; n < N; ++n) {
            for (int j = 0; j < count; ++j) {
              join_digits<Tiles>(scratch.digits[n] + j * Tiles::kDigits, blocks[tile + j], sums[n][tile + j],
                                 place.line == 0);
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
      F32x16 sums[kTile];
      transpose(reinterpret_cast<const float*>(scratch.sums[(begin - first) / kTile][row / kTile]), sums);
      for (int i = 0; i < here; ++i) finish(sums[i], row + i, begin, count);
    }
  }
}

/// Rows [first, last) of w, whose groups decode(row, group, lines) puts into panels as factors.
template <class Tiles, class Layout, class T, class Decode>
NIBBLE_HD void multiply_by_tiles(const LinearTask<Layout, T>& task, int first, int last, void* scratch,
                                 const Decode& decode) {
  auto& room = *static_cast<TileScratch*>(scratch);
  add_up_tiles<Tiles, Layout>(task.weight, static_cast<const char*>(task.x), task.rows, first, last, room, decode);
  for_sums(
      room, task.rows, first,
      last, [&](const F32x16& sums, int row, int begin, int count) __attribute__((always_inline)) {
        finish_products(task, GroupDecoder<Layout>::finished(task.weight, sums, begin, count), row, begin, count);
      });
}

}  // namespace
}  // namespace nibble
