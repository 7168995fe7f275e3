// y = epilogue(x w^T + bias) through tiles, for rows of long segments.
//
// A product of one row of x and one row of w is added up in the order of columns, a line of 64 bytes at a time,
// whatever else is in its tiles; so here too a result depends on nothing but its two rows. In bf16 a weight is
// View::decode, rounded once, or an int8 code. Sums of bytes are whole numbers, the same as in lanes.
#pragma once

namespace nibble {
namespace {

/// Lines of a block: 512 bytes of each row.
constexpr int kTileBlock = 8;
/// Rows of w that are decoded at once, and of one task at most; rows of x of one turn at most.
constexpr int kTilePanelRows = 2 * kTile;
constexpr int kTileTaskRows = 128;
constexpr int kTileTurnRows = 256;

/// Turns of about as many rows each.
inline Turn turn_of_tiles(int left) {
  const int turns = (left + kTileTurnRows - 1) / kTileTurnRows;
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

/// Rows of x in tiles, packed[blocks of lines, tiles of rows, lines, kTileBytes]: where `line` of a tile's rows is, and
/// how many bytes all are.
NIBBLE_HD std::ptrdiff_t place_in_tiles(int lines, int rows, int row, int line) {
  const int tiles = padded_to(rows, kTile) / kTile;
  const int block = line / kTileBlock * kTileBlock;
  const int here = lines - block < kTileBlock ? lines - block : kTileBlock;
  return (std::ptrdiff_t{block} * tiles + row / kTile * here + line - block) * kTileBytes;
}
NIBBLE_HD std::ptrdiff_t bytes_in_tiles(int lines, int rows) {
  return std::ptrdiff_t{lines} * padded_to(rows, kTile) * kTileLine;
}

/// Up to sixteen rows of x from `row` on, in the order the decoder gives factors in.
template <class Layout>
void pack_tile(const BFloat16* x, int k, int rows, int row, void* packed) {
  using Decoder = GroupDecoder<Layout>;
  const auto place = [](int i) __attribute__((always_inline)) { return Decoder::template place<Bf16x32>(i); };
  constexpr bool kApart = Decoder::template place<Bf16x32>(1) != Decoder::template place<Bf16x32>(0) + 1;
  const int count = rows - row < kTile ? rows - row : kTile;
  const int lines = lines_of<Bf16Tiles>(k);
  for (int group = 0; group < groups_of(k); ++group) {
    const BFloat16* from = x + group * kGroup;
    std::ptrdiff_t stride = k;
    BFloat16 some[kTile][kGroup];
    if (count < kTile || (group + 1) * kGroup > k) {
      for (int i = 0; i < kTile; ++i) {
        for (int col = 0; col < kGroup; ++col) {
          some[i][col] = i < count && group * kGroup + col < k ? from[i * stride + col] : BFloat16{0};
        }
      }
      from = some[0];
      stride = kGroup;
    }
    auto* tiles = static_cast<char*>(packed) + place_in_tiles(lines, rows, row, group * kParts);
    for (int part = 0; part < kParts; ++part) {
      __m512i columns[kTile];
      transpose<kApart>(from + part * kPart, stride * std::ptrdiff_t{sizeof(BFloat16)}, columns);
      for (int i = 0; i < kTile; ++i) {
        const int to = place(part * kPart + (kApart ? i / 4 * 8 + i % 4 : 2 * i));
        _mm512_storeu_si512(tiles + to / kPart * kTileBytes + to % kPart / 2 * kTileLine, columns[i]);
      }
    }
  }
}

/// The same as bytes, for multiply_tiles_of_bytes.
template <class Layout, class T>
void pack_tile_of_bytes(const T* x, int k, int rows, int row, void* packed) {
  const int count = rows - row < kTile ? rows - row : kTile;
  const int lines = lines_of<ByteTiles>(k);
  auto* out = static_cast<char*>(packed);
  const auto state = [&](int i) __attribute__((always_inline))->BytesRow& {
    return *reinterpret_cast<BytesRow*>(out + place_of_bytes_row(bytes_in_tiles(lines, rows), k, row + i));
  };
  for (int i = 0; i < count; ++i) begin_bytes_row<Layout>(x + std::ptrdiff_t{i} * k, k, state(i));
  std::int8_t bytes[kTile][kTileLine] = {};
  for (int line = 0; line < lines; ++line) {
    for (int i = 0; i < count; ++i) {
      round_to_bytes<Layout>(x + std::ptrdiff_t{i} * k, k, line * kTileLine, state(i), bytes[i]);
    }
    __m512i columns[kTile];
    transpose<false>(bytes, kTileLine, columns);
    char* tile = out + place_in_tiles(lines, rows, row, line);
    for (int i = 0; i < kTile; ++i) _mm512_storeu_si512(tile + i * kTileLine, columns[i]);
  }
}

/// A block of some rows of w.
using TilePanel = char[kTileBlock][kTilePanelRows][kTileLine];

/// A thread's working memory: the panel that is multiplied, the one that is decoded meanwhile, and the sums of a task.
struct alignas(64) TileScratch {
  TilePanel panels[2];
  char sums[kTileTaskRows / kTile][kTileTurnRows / kTile][kTileBytes];
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
                          TilePanel& panel, int shares, const Decode& decode)
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
              reinterpret_cast<char(*)[kTilePanelRows][kTileLine]>(panel_[group_ * kGroupLines<Tiles>][row_]));
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
  TilePanel& panel_;
  PanelPlace place_, behind_;
  int groups_, pieces_, shares_, due_ = 0, row_ = 0, group_ = 0;
};

/// Adds up the products of rows [first, last) of w. decode(row, group, lines) puts a group of a row into a panel.
template <class Tiles, class Layout, class T, class Decode>
NIBBLE_HD void add_up_tiles(const LinearTask<Layout, T>& task, int first, int last, TileScratch& scratch,
                            const Decode& decode) {
  begin_tiles();
  const int lines = lines_of<Tiles>(task.weight.k);
  const int tiles = padded_to(task.rows, kTile) / kTile;
  const auto rows_of = [&](PanelPlace place) {
    return last - place.row < kTilePanelRows ? last - place.row : kTilePanelRows;
  };
  const auto lines_at = [&](PanelPlace place) {
    return lines - place.line < kTileBlock ? lines - place.line : kTileBlock;
  };
  // Blocks of columns one after the other; then comes {last, 0}, which has no rows here and is where the next task is.
  const auto after = [&](PanelPlace place) {
    if (place.row + kTilePanelRows < last) return PanelPlace{place.row + kTilePanelRows, place.line};
    return place.line + kTileBlock < lines ? PanelPlace{first, place.line + kTileBlock} : PanelPlace{last, 0};
  };
  const auto in_shares = [&](PanelPlace place, TilePanel & panel, int shares) __attribute__((always_inline)) {
    return PanelInShares<Tiles, Layout, Decode>(task.weight, place, rows_of(place), lines_at(place), after(place),
                                                panel, shares, decode);
  };

  PanelPlace place{first, 0};
  in_shares(place, scratch.panels[0], 1).share();
  for (int i = 0; rows_of(place) > 0; i = 1 - i, place = after(place)) {
    memory_is_as_written();
    const int here = lines_at(place);
    auto next = in_shares(after(place), scratch.panels[1 - i], (tiles + 1) / 2 * here);
    const char* w = scratch.panels[i][0][0];
    const char* x = static_cast<const char*>(task.x) + place_in_tiles(lines, task.rows, 0, place.line);
    auto* sums = scratch.sums[(place.row - first) / kTile];
    const auto multiply = [&]<int N>() __attribute__((always_inline)) {
      const auto at = [&]<int M>(int tile) __attribute__((always_inline)) {
        multiply_tiles<Tiles, N, M>(
            w, x + std::ptrdiff_t{tile} * here * kTileBytes, here, sums[tile], sizeof scratch.sums[0],
            place.line == 0, [&]() __attribute__((always_inline)) { next.share(); });
      };
      int tile = 0;
      for (; tile + 2 <= tiles; tile += 2) at.template operator()<2>(tile);
      if (tile < tiles) at.template operator()<1>(tile);
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

/// One group of one row of w, part p in lines[p]: as they are where sums are scaled at the end, or by View::decode.
template <class Layout, class Tables>
NIBBLE_HD void decode_group(const Tables& w, std::int64_t row, int group, char (*lines)[kTilePanelRows][kTileLine]) {
  using Decoder = GroupDecoder<Layout>;
  const auto put = [&](int part, const Bf16x32& weights) __attribute__((always_inline)) {
    store_operand(reinterpret_cast<BFloat16*>(lines[part][0]), weights);
  };
  if constexpr (Decoder::kScaled) {
    float scales[16], zeros[16] = {};
    store(scales, Decoder::scale(w, row, group));
    if constexpr (!std::is_same_v<typename Decoder::ZeroLanes, NoZeros>) store(zeros, Decoder::zeros(w, row, group));
    F32x16 levels[4];
    for (int quarter = 0; quarter < 4; ++quarter) {
      levels[quarter] = (w.table - broadcast(zeros[4 * quarter])) * broadcast(scales[4 * quarter]);
    }
    const QuarterTables tables(levels);
    const auto* codes = static_cast<const std::uint8_t*>(Decoder::row_codes(w, row)) + group * Decoder::kGroupBytes;
    for (int part = 0; part < kParts; ++part) put(part, tables.lookup(codes, part));
  } else {
    for (int part = 0; part < kParts; ++part) put(part, Decoder::template decode<Bf16x32>(w, row, group, part));
  }
}

/// The same one weight at a time, zero beyond the last.
template <class Layout>
void decode_group_slowly(const typename Layout::View& w, std::int64_t row, int group,
                         char (*lines)[kTilePanelRows][kTileLine]) {
  using Decoder = GroupDecoder<Layout>;
  float values[kGroup] = {};
  const int count = w.k - group * kGroup < kGroup ? w.k - group * kGroup : kGroup;
  for (int i = 0; i < count; ++i) {
    const int col = group * kGroup + i;
    values[Decoder::template place<Bf16x32>(i)] = Decoder::kScaled ? w.decode(row, col) : Decoder::factor(w, row, col);
  }
  for (int part = 0; part < kParts; ++part) {
    const float* from = values + part * kPart;
    store_operand(reinterpret_cast<BFloat16*>(lines[part][0]), make_operand<Bf16x32>(load(from), load(from + 16)));
  }
}

template <class Layout>
void multiply_by_tiles(const LinearTask<Layout, BFloat16>& task, int first, int last, void* scratch) {
  using Decoder = GroupDecoder<Layout>;
  auto& room = *static_cast<TileScratch*>(scratch);
  const auto& w = Decoder::template prepared<F32x32>(task.weight);
  const int fast = Decoder::fast_groups(w, last - 1);
  add_up_tiles<Bf16Tiles>(task, first, last, room, [&](int row, int group, char(*lines)[kTilePanelRows][kTileLine]) {
    if (group < fast) {
      decode_group<Layout>(w, row, group, lines);
    } else {
      decode_group_slowly<Layout>(w, row, group, lines);
    }
  });
  for_sums(
      room, task.rows, first, last, [&](__m512i sums, int row, int begin, int count) __attribute__((always_inline)) {
        const F32x16 products = Decoder::finished(task.weight, {_mm512_castsi512_ps(sums)}, begin, count);
        finish_products(task, products, row, begin, count);
      });
}

/// A group of a row as it is, zero beyond the last column.
inline void copy_group(const Int8Row::View& w, std::int64_t row, int group, char (*lines)[kTilePanelRows][kTileLine]) {
  const std::int8_t* codes = w.codes + row * w.k + group * kGroup;
  const int left = w.k - group * kGroup;
  for (int line = 0; line < kGroupLines<ByteTiles>; ++line, codes += kTileLine) {
    char some[kTileLine] = {};
    const int count = left - line * kTileLine;
    for (int i = 0; count < kTileLine && i < count; ++i) some[i] = codes[i];
    _mm512_storeu_si512(lines[line][0], _mm512_loadu_si512(count < kTileLine ? some : static_cast<const void*>(codes)));
  }
}

template <class Layout, class T>
void multiply_by_tiles_of_bytes(const LinearTask<Layout, T>& task, int first, int last, void* scratch) {
  auto& room = *static_cast<TileScratch*>(scratch);
  const Int8Row::View& w = task.weight;
  add_up_tiles<ByteTiles>(task, first, last, room, [&](int row, int group, char(*lines)[kTilePanelRows][kTileLine]) {
    copy_group(w, row, group, lines);
  });
  const auto* x = static_cast<const char*>(task.x);
  const std::ptrdiff_t bytes = bytes_in_tiles(lines_of<ByteTiles>(w.k), task.rows);
  for_sums(
      room, task.rows, first, last, [&](__m512i sums, int row, int begin, int count) __attribute__((always_inline)) {
        const auto& state = *reinterpret_cast<const BytesRow*>(x + place_of_bytes_row(bytes, w.k, row));
        finish_bytes(task, I32x16{sums}, state, row, begin, count);
      });
}

}  // namespace
}  // namespace nibble
