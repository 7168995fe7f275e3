// Attention through tiles, for the queries of a long segment. Scores are keys times queries, so that lanes are queries
// and a softmax needs no sums over lanes; both products are those of tiles-inl.h, of as many terms: in bf16 e^(score -
// largest) is rounded to bf16. Sums are fp32, over the keys in order from the first on.
#pragma once

namespace nibble {
namespace {

/// Queries of a turn, which are as many rows as the tiles of sums have; keys of a line of their probabilities; and
/// lines for which values and probabilities are made ready at once.
constexpr int kTurnQueries = 2 * kTile;
constexpr int kTileKeys = 32;
constexpr int kStretchLines = 4;
static_assert(kTileKeys == kPart && kTileKeys == kTilePanelRows && kTileQueries % kTurnQueries == 0);

/// A task, and where in the working memory what it makes is. Lines are those of a head's columns.
template <class T>
struct TileAttention {
  using Tiles = TilesOf<Dense<T>, T>;
  static constexpr int kTerms = Tiles::kFactorTerms;

  NIBBLE_HD TileAttention(const AttendTask<T>& task, void* scratch)
      : task(task), lines(padded_to(task.head_dim, kPart) / kPart), columns(padded_to(task.head_dim, kTile) / kTile) {
    auto* place = static_cast<char*>(scratch);
    const auto take = [&](std::ptrdiff_t bytes) __attribute__((always_inline)) {
      char* taken = place;
      place += bytes;
      return taken;
    };
    scores = take(std::ptrdiff_t{kTileQueries} * padded_to(keys(), kTileKeys) * std::ptrdiff_t{sizeof(float)});
    queries = take(std::ptrdiff_t{kTileQueries / kTile} * lines * kTerms * kTileBytes);
    panel = take(panel_bytes<Tiles>(lines));
    probabilities = take(panel_bytes<Tiles>(kStretchLines));
    values = take(std::ptrdiff_t{columns} * kStretchLines * kTerms * kTileBytes);
    sums = take(std::ptrdiff_t{kTileQueries / kTile} * columns * kTileBytes);
  }

  NIBBLE_HD int keys() const { return task.past + task.queries; }
  NIBBLE_HD int turns() const { return (task.queries + kTurnQueries - 1) / kTurnQueries; }
  /// Queries of a turn that there are, and the lines of keys that they see.
  NIBBLE_HD int queries_of(int turn) const {
    const int left = task.queries - turn * kTurnQueries;
    return left < kTurnQueries ? left : kTurnQueries;
  }
  NIBBLE_HD int key_lines(int turn) const {
    return padded_to(task.past + turn * kTurnQueries + queries_of(turn), kTileKeys) / kTileKeys;
  }
  /// The scores of a turn for a line of keys, [2 tiles of keys, 2 of queries].
  NIBBLE_HD char* scores_of(int line, int turn) const {
    return scores + (std::ptrdiff_t{line} * turns() + turn) * 4 * kTileBytes;
  }
  NIBBLE_HD char* sums_of(int turn) const { return sums + std::ptrdiff_t{turn} * 2 * columns * kTileBytes; }

  const AttendTask<T>& task;
  int lines, columns;  ///< of 32 columns of a head, and tiles of 16
  char* scores;
  char* queries;        ///< [turns, 2 tiles, lines, terms, kTileBytes]
  char* panel;          ///< 32 keys, [lines, terms]
  char* probabilities;  ///< the queries of a turn, [lines of keys, terms]
  char* values;         ///< [columns, lines of keys, terms, kTileBytes]
  char* sums;           ///< [turns, 2 tiles, columns, kTileBytes]
};

/// Calls f with how many tiles of sixteen so many rows of at most 32 take.
template <class F>
NIBBLE_HD void with_tiles(int rows, F&& f) {
  if (rows > kTile) {
    f.template operator()<2>();
  } else {
    f.template operator()<1>();
  }
}

template <class T>
void pack_queries(const TileAttention<T>& a) {
  constexpr int kTerms = TileAttention<T>::kTerms;
  for (int tile = 0; tile * kTile < a.task.queries; ++tile) {
    const int count = a.task.queries - tile * kTile < kTile ? a.task.queries - tile * kTile : kTile;
    for (int line = 0; line < a.lines; ++line) {
      BFloat16 rows[kTerms][kTile][kPart] = {};
      for (int i = 0; i < count; ++i) {
        const T* query = a.task.q + (tile * kTile + i) * a.task.stride + line * kPart;
        Bf16x32 terms[kTerms];
        load_terms(query, a.task.head_dim - line * kPart, terms);
        for (int term = 0; term < kTerms; ++term) store_operand(rows[term][i], terms[term]);
      }
      for (int term = 0; term < kTerms; ++term) {
        transpose_words(rows[term], kTileLine,
                        a.queries + ((std::ptrdiff_t{tile} * a.lines + line) * kTerms + term) * kTileBytes);
      }
    }
  }
}

/// 32 keys as rows of a panel, zero beyond the last.
template <class T>
void pack_keys(const TileAttention<T>& a, int first) {
  constexpr int kTerms = TileAttention<T>::kTerms;
  const int count = a.keys() - first < kTileKeys ? a.keys() - first : kTileKeys;
  for (int line = 0; line < a.lines; ++line) {
    const T* keys = a.task.keys + static_cast<std::ptrdiff_t>(first) * a.task.head_dim + line * kPart;
    const int left = a.task.head_dim - line * kPart;
    for (int i = 0; i < kTileKeys; ++i) {
      Bf16x32 terms[kTerms];
      load_terms(keys + i * a.task.head_dim, i < count ? left : 0, terms);
      const Strided<char> to = lines_of_row<typename TileAttention<T>::Tiles>(a.panel, a.lines, i).from(line * kTerms);
      for (int term = 0; term < kTerms; ++term) store_operand(reinterpret_cast<BFloat16*>(to[term]), terms[term]);
    }
  }
}

/// The scores of sixteen queries for key number i of a line.
NIBBLE_HD float* scores_at(char* scores, int tile, int i) {
  return reinterpret_cast<float*>(scores + (i / kTile * 2 + tile) * kTileBytes + i % kTile * kTileLine);
}

/// The scores of all queries for 32 keys: -infinity where a query, which is a lane, does not see the key.
template <class T>
void score_in_tiles(const TileAttention<T>& a, int line) {
  using Attention = TileAttention<T>;
  const int first = line * kTileKeys;
  pack_keys(a, first);
  memory_is_as_written();
  const std::ptrdiff_t tile_bytes = std::ptrdiff_t{a.lines} * Attention::kTerms * kTileBytes;
  for (int turn = 0; turn < a.turns(); ++turn) {
    if (line >= a.key_lines(turn)) continue;
    char* scores = a.scores_of(line, turn);
    with_tiles(
        a.queries_of(turn), [&]<int M>() __attribute__((always_inline)) {
          multiply_tiles<typename Attention::Tiles, 2, M>(a.panel, {a.queries + 2 * turn * tile_bytes, tile_bytes},
                                                          a.lines, {scores, 2 * kTileBytes}, true, [] {});
          memory_is_as_written();
          for (int tile = 0; tile < M; ++tile) {
            const int query =
                a.task.past + turn * kTurnQueries + tile * kTile;  // the first, which sees keys up to this
            for (int i = 0; i < kTileKeys && first + kTileKeys - 1 > query; ++i) {
              const int behind = first + i - query;
              const auto blind = static_cast<__mmask16>(behind <= 0       ? 0
                                                        : behind >= kTile ? 0xffff
                                                                          : (1U << behind) - 1);
              _mm512_mask_storeu_ps(scores_at(scores, tile, i), blind, _mm512_set1_ps(-__builtin_inff()));
            }
          }
        });
  }
}

/// The largest of sixteen queries' scores.
template <class T>
NIBBLE_HD F32x16 largest_scores(const TileAttention<T>& a, int tile) {
  F32x16 largest[4];
  for (F32x16& some : largest) some = broadcast(-__builtin_inff());
  for (int line = 0; line < a.key_lines(tile / 2); ++line) {
    char* scores = a.scores_of(line, tile / 2);
    for (int i = 0; i < kTileKeys; ++i) largest[i % 4] = max(load(scores_at(scores, tile % 2, i)), largest[i % 4]);
  }
  return max(max(largest[0], largest[1]), max(largest[2], largest[3]));
}

/// A permutation of words: of two vectors of sixteen, pairs of one of each.
NIBBLE_HD __m512i pairs_order() {
  alignas(64) std::uint16_t order[2 * kTile];
  for (int i = 0; i < kTile; ++i) {
    order[2 * i] = static_cast<std::uint16_t>(i);
    order[2 * i + 1] = static_cast<std::uint16_t>(kTile + i);
  }
  return _mm512_load_si512(order);
}

/// Values of up to kStretchLines lines of keys, pairs of keys side by side; zero beyond the last key and column.
template <class T>
void pack_values(const TileAttention<T>& a, int first_line, int lines) {
  constexpr int kTerms = TileAttention<T>::kTerms;
  const __m512i order = pairs_order();
  for (int pair = 0; pair < lines * kTile; ++pair) {
    const int key = first_line * kTileKeys + 2 * pair;
    const T* row = a.task.values + static_cast<std::ptrdiff_t>(key) * a.task.head_dim;
    for (int column = 0; column < a.columns; ++column) {
      const int left = a.task.head_dim - column * kTile < kTile ? a.task.head_dim - column * kTile : kTile;
      const auto of = [&](int i) __attribute__((always_inline)) {
        return key + i < a.keys() ? load_some(row + i * a.task.head_dim + column * kTile, left) : broadcast(0);
      };
      Bf16x32 terms[kTerms];
      split(of(0), of(1), terms);
      char* to = a.values + ((std::ptrdiff_t{column} * kStretchLines + pair / kTile) * kTerms) * kTileBytes;
      for (int term = 0; term < kTerms; ++term) {
        _mm512_storeu_si512(to + term * kTileBytes + pair % kTile * kTileLine,
                            _mm512_permutexvar_epi16(order, reinterpret_cast<__m512i>(terms[term].pairs)));
      }
    }
  }
}

/// The probabilities of sixteen queries for line number `line` of `lines` of keys, times what they are to be divided
/// by, to the rows of queries; and what they add up to.
template <class Tiles>
NIBBLE_HD F32x16 exponentials_in_tiles(char* scores, int tile, const F32x16& largest, char* rows, int line, int lines) {
  constexpr int kTerms = Tiles::kFactorTerms;
  const __m512i order = pairs_order();
  F32x16 total = broadcast(0);
  char pairs[kTerms][kTile][kTileLine];
  for (int i = 0; i < kTileKeys; i += 2) {
    F32x16 e[2];
    for (int j = 0; j < 2; ++j) {
      e[j] = exp_or_nothing(load(scores_at(scores, tile, i + j)) - largest);
    }
    total = total + (e[0] + e[1]);
    Bf16x32 terms[kTerms];
    split(e[0], e[1], terms);
    for (int term = 0; term < kTerms; ++term) {
      _mm512_storeu_si512(pairs[term][i / 2],
                          _mm512_permutexvar_epi16(order, reinterpret_cast<__m512i>(terms[term].pairs)));
    }
  }
  for (int term = 0; term < kTerms; ++term) {
    __m512i queries[kTile];
    transpose<false>(pairs[term], kTileLine, queries);
    for (int i = 0; i < kTile; ++i) {
      const Strided<char> to = lines_of_row<Tiles>(rows, lines, tile * kTile + i).from(line * kTerms);
      _mm512_storeu_si512(to[term], queries[i]);
    }
  }
  return total;
}

/// Adds values of a stretch of keys times their probabilities to a turn's sums.
template <class T>
void mix_in_tiles(const TileAttention<T>& a, int turn, int lines, bool begin) {
  using Attention = TileAttention<T>;
  constexpr std::ptrdiff_t kColumnBytes = kStretchLines * Attention::kTerms * kTileBytes;
  memory_is_as_written();
  with_tiles(
      a.queries_of(turn), [&]<int N>() __attribute__((always_inline)) {
        for (int column = 0; column < a.columns; column += 2) {
          with_tiles((a.columns - column) * kTile, [&]<int M>() __attribute__((always_inline)) {
            multiply_tiles<typename Attention::Tiles, N, M>(
                a.probabilities, {a.values + column * kColumnBytes, kColumnBytes}, lines,
                {a.sums_of(turn) + column * kTileBytes, std::ptrdiff_t{a.columns} * kTileBytes}, begin, [] {});
          });
        }
      });
  memory_is_as_written();
}

/// As attend, of up to kTileQueries.
template <class T>
void attend_in_tiles(const AttendTask<T>& task, float* scratch) {
  constexpr int kTiles = kTileQueries / kTile;
  const TileAttention<T> a(task, scratch);
  const int key_lines = padded_to(a.keys(), kTileKeys) / kTileKeys;
  const int tiles = padded_to(task.queries, kTile) / kTile;
  begin_tiles();
  pack_queries(a);
  F32x16 largest[kTiles], total[kTiles];
  for (F32x16& some : total) some = broadcast(0);
  for (int line = 0; line < key_lines; ++line) score_in_tiles(a, line);
  for (int tile = 0; tile < tiles; ++tile) largest[tile] = largest_scores(a, tile);
  for (int first = 0; first < key_lines; first += kStretchLines) {
    pack_values(a, first, key_lines - first < kStretchLines ? key_lines - first : kStretchLines);
    for (int turn = 0; turn < a.turns(); ++turn) {
      const int left = a.key_lines(turn) - first;
      if (left <= 0) continue;
      const int lines = left < kStretchLines ? left : kStretchLines;
      for (int tile = 2 * turn; tile < tiles && tile < 2 * turn + 2; ++tile) {
        for (int line = 0; line < lines; ++line) {
          const F32x16 some = exponentials_in_tiles<typename TileAttention<T>::Tiles>(
              a.scores_of(first + line, turn), tile % 2, largest[tile], a.probabilities, line, lines);
          total[tile] = total[tile] + some;
        }
      }
      mix_in_tiles(a, turn, lines, first == 0);
    }
  }
  end_tiles();
  for (int query = 0; query < task.queries; ++query) {
    const int tile = query / kTile;
    float totals[kTile];
    store(totals, total[tile]);
    const F32x16 scale = broadcast(1.0F / totals[query % kTile]);
    const char* sums = a.sums + std::ptrdiff_t{tile} * a.columns * kTileBytes + query % kTile * kTileLine;
    for (int column = 0; column < a.columns; ++column) {
      const int left = task.head_dim - column * kTile < kTile ? task.head_dim - column * kTile : kTile;
      const F32x16 sum = load(reinterpret_cast<const float*>(sums + column * kTileBytes));
      store_some(task.y + query * task.stride + column * kTile, sum * scale, left);
    }
  }
}

}  // namespace
}  // namespace nibble
