// What comes behind the tiles of a turn of linear_few.cuh.
#pragma once

#include "kernels/cuda/few_room.cuh"

namespace nibble {
namespace {

/// Sums are sent, added up and finished.
template <class Layout, class T, class Block>
class FewFinish {
 public:
  __device__ __forceinline__ FewFinish(const FewTask<Layout, T>& task, std::uint32_t room, int block, int thread)
      : task_(task),
        seat_(task, block, thread),
        exchange_(room + Block::kSums, room + Block::kBarriers, task.team_shift, task.sharers_shift - task.own_shift),
        rows_of_turn_(seat_.groups * Block::kDown) {}

  __device__ __forceinline__ const typename Block::SumsExchange& exchange() const { return exchange_; }

  /// Whether the team has rows of tiles in a turn.
  __device__ __forceinline__ bool has_rows(int turn) const { return turn * rows_of_turn_ < seat_.tiles; }
  /// How many the warp has, or none.
  __device__ __forceinline__ int rows_of_warp(int turn) const {
    if (seat_.group >= seat_.groups) return 0;
    return max(0, min(rows_of(turn) - seat_.group * Block::kDown, Block::kDown));
  }

  template <class Spread>
  __device__ __forceinline__ void send(int turn, const Spread (&sums)[Block::kDown]) const {
    const int rows = rows_of_warp(turn);
#pragma unroll
    for (int i = 0; i < Block::kDown; ++i) {
      if (i >= rows) break;
      exchange_.send(seat_.group * Block::kDown + i, seat_.sharer >> task_.own_shift, sums[i].d, seat_.lane);
    }
    exchange_.announce(rows, seat_.lane);
  }

  /// Eight lanes finish the results of a row of tiles and a pair of rows of x, a lane those of two columns. What the
  /// next ones are finished with is fetched before.
  __device__ __forceinline__ void finish(int turn) const {
    const int pairs = rows_of(turn) << exchange_.pairs_shift();
    int pair = 4 * seat_.warp + seat_.lane / kLanes;
    Ahead ahead = fetch(turn, pair, pairs);
    exchange_.wait(turn);
#pragma unroll 1
    while (pair < pairs) {
      const Result result = result_of(turn, pair);
      const auto& finish = seat_.part.finish;
      const float2 biases = finish.values_of(ahead.biases);
      const float4 sums = sums_of(pair);
      float v[4] = {sums.x * ahead.scale.x + biases.x, sums.z * ahead.scale.y + biases.y,
                    sums.y * ahead.scale.x + biases.x, sums.w * ahead.scale.y + biases.y};
      finish.steps(v);
      if (result.rows > 0) finish.store_two({v[0], v[1]}, ahead.residuals[0], result.place);
      if (result.rows > 1) finish.store_two({v[2], v[3]}, ahead.residuals[1], result.place + seat_.part.weight.n);
      pair += kApart;
      ahead = fetch(turn, pair, pairs);
    }
  }

 private:
  using Two = typename Finish<T>::Two;
  static constexpr int kLanes = kTileRows / 2, kApart = 4 * Block::kWarps;

  /// What the results of two columns and a pair of rows of x are finished with.
  struct Ahead {
    Two biases, residuals[2];
    float2 scale;
  };
  struct Result {
    int rows;  ///< as many as are there: of a pair, one or none may not be
    int column;
    std::int64_t place;  ///< in y, of the first
  };
  /// Rows of tiles of a turn.
  __device__ __forceinline__ int rows_of(int turn) const {
    return min(seat_.tiles - turn * rows_of_turn_, rows_of_turn_);
  }
  /// What the sets have of a pair, by twos, by fours and together: both rows of a column, then of the next one.
  __device__ __forceinline__ float4 sums_of(int pair) const {
    const int shift = exchange_.pairs_shift(), sets = 1 << (task_.sharers_shift - task_.own_shift);
    const auto of = [&](int set) {
      const uint4 sums = load_shared(exchange_.piece(pair >> shift, set, pair & ((1 << shift) - 1)) +
                                     static_cast<std::uint32_t>(seat_.lane % kLanes * 16));
      return float4{__uint_as_float(sums.x), __uint_as_float(sums.y), __uint_as_float(sums.z), __uint_as_float(sums.w)};
    };
    const auto plus = [](float4 a, float4 b) { return float4{a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; };
    float4 sums = plus(of(0), of(1));
    if (sets > 2) sums = plus(sums, plus(of(2), of(3)));
    if (sets > 4) sums = plus(sums, plus(plus(of(4), of(5)), plus(of(6), of(7))));
    return sums;
  }
  __device__ __forceinline__ Result result_of(int turn, int pair) const {
    const int shift = exchange_.pairs_shift(), row = 2 * ((seat_.rank << shift) + (pair & ((1 << shift) - 1)));
    const int tile = seat_.tile + turn * rows_of_turn_ + (pair >> shift);
    const int column = tile * kTileRows + seat_.lane % kLanes * 2;
    return {task_.rows - row, column, static_cast<std::int64_t>(row) * seat_.part.weight.n + column};
  }
  __device__ __forceinline__ Ahead fetch(int turn, int pair, int pairs) const {
    Ahead ahead{};
    if (pair >= pairs) return ahead;
    const Result result = result_of(turn, pair);
    const auto& finish = seat_.part.finish;
    ahead.biases = finish.two_biases_of(result.column);
    ahead.scale = {seat_.part.weight.row_scale(result.column), seat_.part.weight.row_scale(result.column + 1)};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (i < result.rows) ahead.residuals[i] = finish.two_residuals_of(result.place + i * seat_.part.weight.n);
    }
    return ahead;
  }

  const FewTask<Layout, T>& task_;
  FewSeat<Layout, T, Block::kWarps> seat_;
  typename Block::SumsExchange exchange_;
  int rows_of_turn_;
};

}  // namespace
}  // namespace nibble
