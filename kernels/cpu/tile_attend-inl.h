// Attention through tiles, for sixteen queries of a long segment. Scores are keys times queries, so that lanes are
// queries and a softmax needs no sums over lanes. e^(score - largest) is rounded to bf16; sums are fp32.
#pragma once

namespace nibble {
namespace {

/// Keys of a block: a line of probabilities.
constexpr int kTileKeys = 32;

/// Sixteen rows of `from`, `stride` elements apart, of which `count` exist, zero beyond them and beyond `width`.
NIBBLE_HD void copy_rows(const BFloat16* from, std::ptrdiff_t stride, int count, int width, BFloat16* to) {
  const int padded = padded_to(width, kPart);
  for (int row = 0; row < kTile; ++row) {
    for (int col = 0; col < padded; ++col) {
      to[row * padded + col] = row < count && col < width ? from[row * stride + col] : BFloat16{0};
    }
  }
}

/// scores[keys padded to kTileKeys][kTile queries]. `room`: as many elements as sixteen queries twice.
inline void score_in_tiles(const AttendTask<BFloat16>& task, int keys, BFloat16* room, float* scores) {
  const int width = padded_to(task.head_dim, kPart), parts = width / kPart;
  BFloat16* queries = room + kTile * width;
  copy_rows(task.q, task.stride, task.queries, task.head_dim, room);
  for (int part = 0; part < parts; ++part) {
    __m512i columns[kTile];
    transpose<false>(room + part * kPart, width * std::ptrdiff_t{sizeof(BFloat16)}, columns);
    for (int i = 0; i < kTile; ++i) _mm512_storeu_si512(queries + (part * kTile + i) * kPart, columns[i]);
  }
  for (int key = 0; key < padded_to(keys, kTileKeys); key += kTile) {
    const BFloat16* rows = task.keys + static_cast<std::ptrdiff_t>(key) * task.head_dim;
    if (keys - key < kTile || width != task.head_dim) {
      copy_rows(rows, task.head_dim, keys - key, task.head_dim, room);
      rows = room;
    }
    memory_is_as_written();
    _tile_zero(0);
    for (int part = 0; part < parts; ++part) {
      _tile_loadd(4, rows + part * kPart, static_cast<std::ptrdiff_t>(sizeof(BFloat16)) * width);
      _tile_loadd(6, queries + part * kTile * kPart, kTileLine);
      Bf16Tiles<1, 1>::multiply<0, 0>();
    }
    _tile_stored(0, scores + std::ptrdiff_t{key} * kTile, kTileLine);
  }
  memory_is_as_written();
}

/// The queries that do not see key number `key`, as lanes: query i sees the keys up to past + i.
NIBBLE_HD __mmask16 blind(const AttendTask<BFloat16>& task, int key) {
  const int behind = key - task.past;
  return static_cast<__mmask16>(behind <= 0 ? 0 : behind >= kTile ? 0xffff : (1U << behind) - 1);
}

/// Turns the scores of each block of keys into a tile of their probabilities, a line a query, in the first half of its
/// place. Returns what they add up to.
inline F32x16 probabilities_in_tiles(const AttendTask<BFloat16>& task, int keys, float* scores) {
  const __m512 nothing = _mm512_set1_ps(-__builtin_inff());
  F32x16 largest = {nothing};
  for (int key = 0; key < keys; ++key) {
    const F32x16 score = {
        _mm512_mask_mov_ps(load(scores + std::ptrdiff_t{key} * kTile).lanes, blind(task, key), nothing)};
    largest = max(score, largest);
  }
  alignas(64) std::uint16_t order[2 * kTile];
  for (int i = 0; i < kTile; ++i) {
    order[2 * i] = static_cast<std::uint16_t>(i);
    order[2 * i + 1] = static_cast<std::uint16_t>(kTile + i);
  }
  const __m512i pairs_order = _mm512_load_si512(order);
  constexpr int kSums = 8;
  F32x16 total[kSums];
  for (F32x16& sum : total) sum = broadcast(0);
  for (int first = 0; first < keys; first += kTileKeys) {
    float* block = scores + std::ptrdiff_t{first} * kTile;
    char pairs[kTile][kTileLine];
    for (int i = 0; i < kTileKeys; i += 2) {
      F32x16 e[2];
      for (int j = 0; j < 2; ++j) {
        const int key = first + i + j;
        e[j] = exp(load(block + (i + j) * kTile) - largest);
        e[j] = {_mm512_maskz_mov_ps(static_cast<__mmask16>(key < keys ? ~blind(task, key) : 0), e[j].lanes)};
        total[(i + j) % kSums] = total[(i + j) % kSums] + e[j];
      }
      const auto both = reinterpret_cast<__m512i>(make_operand<Bf16x32>(e[0], e[1]).pairs);
      _mm512_storeu_si512(pairs[i / 2], _mm512_permutexvar_epi16(pairs_order, both));
    }
    __m512i lines[kTile];
    transpose<false>(pairs, kTileLine, lines);
    for (int i = 0; i < kTile; ++i) _mm512_storeu_si512(block + i * kTile, lines[i]);
  }
  return ((total[0] + total[4]) + (total[2] + total[6])) + ((total[1] + total[5]) + (total[3] + total[7]));
}

/// Values of a block of keys, pairs of keys side by side: two tiles of each 32 columns, the first of which has the
/// first four columns of each eight. Zero beyond the last key and column.
NIBBLE_HD void pair_values(const AttendTask<BFloat16>& task, int key, int keys, int col, int cols,
                           char (*tiles)[kTile][kTileLine]) {
  for (int part = 0; part * kPart < cols; ++part) {
    const int left = cols - part * kPart;
    const auto columns = static_cast<__mmask32>(left >= kPart ? 0xffffffffU : (1U << left) - 1);
    const auto values = [&](int i) __attribute__((always_inline)) {
      const BFloat16* row = task.values + static_cast<std::ptrdiff_t>(key + i) * task.head_dim + col + part * kPart;
      return _mm512_maskz_loadu_epi16(key + i < keys ? columns : 0, row);
    };
    for (int i = 0; i < kTile; ++i) {
      const __m512i even = values(2 * i), odd = values(2 * i + 1);
      _mm512_storeu_si512(tiles[2 * part][i], _mm512_unpacklo_epi16(even, odd));
      _mm512_storeu_si512(tiles[2 * part + 1][i], _mm512_unpackhi_epi16(even, odd));
    }
  }
}

/// Up to 64 columns of the queries' results from `col` on.
inline void mix_in_tiles(const AttendTask<BFloat16>& task, int keys, const float* probabilities, const float* scales,
                         int col) {
  constexpr int kMost = 2 * kPart;
  const int cols = task.head_dim - col < kMost ? task.head_dim - col : kMost;
  alignas(64) char tiles[2][4][kTile][kTileLine] = {};
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  pair_values(task, 0, keys, col, cols, tiles[0]);
  for (int key = 0, i = 0; key < keys; key += kTileKeys, i = 1 - i) {
    if (key + kTileKeys < keys) pair_values(task, key + kTileKeys, keys, col, cols, tiles[1 - i]);
    memory_is_as_written();
    _tile_loadd(4, probabilities + std::ptrdiff_t{key} * kTile, kTileLine);
    _tile_loadd(6, tiles[i][0], kTileLine);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, tiles[i][1], kTileLine);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(6, tiles[i][2], kTileLine);
    _tile_dpbf16ps(2, 4, 6);
    _tile_loadd(7, tiles[i][3], kTileLine);
    _tile_dpbf16ps(3, 4, 7);
  }
  float sums[4][kTile][kTile];
  _tile_stored(0, sums[0], kTileLine);
  _tile_stored(1, sums[1], kTileLine);
  _tile_stored(2, sums[2], kTileLine);
  _tile_stored(3, sums[3], kTileLine);
  memory_is_as_written();
  const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11),
                second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  for (int query = 0; query < task.queries; ++query) {
    BFloat16* y = task.y + query * task.stride + col;
    for (int i = 0; i < cols; i += kTile) {
      const int part = i / kPart;
      const __m512i low = _mm512_loadu_si512(sums[2 * part][query]),
                    high = _mm512_loadu_si512(sums[2 * part + 1][query]);
      const __m512i columns = _mm512_permutex2var_epi64(low, i % kPart == 0 ? first : second, high);
      store_some(y + i, F32x16{_mm512_castsi512_ps(columns)} * broadcast(scales[query]), cols - i < 16 ? cols - i : 16);
    }
  }
}

/// As attend, of up to sixteen queries.
inline void attend_in_tiles(const AttendTask<BFloat16>& task, float* scratch) {
  begin_tiles();
  const int keys = task.past + task.queries;
  auto* room = reinterpret_cast<BFloat16*>(scratch);
  float* scores = scratch + kTile * padded_to(task.head_dim, kPart);
  score_in_tiles(task, keys, room, scores);
  float scales[kTile];
  const F32x16 total = probabilities_in_tiles(task, keys, scores);
  store(scales, total);
  for (float& scale : scales) scale = 1.0F / scale;
  for (int col = 0; col < task.head_dim; col += 2 * kPart) mix_in_tiles(task, keys, scores, scales, col);
  end_tiles();
}

}  // namespace
}  // namespace nibble
