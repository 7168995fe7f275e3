// LayerNorm of rows whose columns are divided among the blocks of a team, on their way to shared memory.
#pragma once

#include "kernels/cuda/norm.cuh"
#include "kernels/cuda/team.cuh"

namespace nibble {

/// A warp takes so many rows at once, eight lanes each, of kNormColumns columns.
inline constexpr int kTeamNormRows = 4;
/// Of up to so many rows blocks know the moments, [k / kNormColumns][kMostTeamRows], and behind them the scalings.
inline constexpr int kMostTeamRows = 16;
inline constexpr int team_norm_bytes(int cols) {
  return kMostTeamRows * (cols / kNormColumns * static_cast<int>(sizeof(Moments)) + static_cast<int>(sizeof(Scaling)));
}

/// Each warp has up to kMost places, tells all blocks their moments, and learns those of the others: bits are those of
/// normalise_row.
template <class T, int kWarps, int kMost>
class TeamNorm {
 public:
  /// `cols` of k columns, from `first` on, are the block's.
  __device__ __forceinline__ TeamNorm(int rows, int k, int first, int cols, const NormTask<T>& norm)
      : norm_(norm), rows_(rows), k_(k), first_(first) {
    const int down = (rows + kTeamNormRows - 1) / kTeamNormRows, places = cols / kNormColumns * down;
    const int each = (places + kWarps - 1) / kWarps, begin = static_cast<int>(threadIdx.x) / 32 * each;
    count_ = min(each, places - begin);
    // Not a division of integers, a chain of instructions that x would wait for.
    group_ = static_cast<int>(__fdividef(static_cast<float>(begin) + 0.5F, static_cast<float>(down)));
    row_ = (begin - group_ * down) * kTeamNormRows;
  }

  /// The first parameters, then x.
  __device__ __forceinline__ void fetch() {
    if (count_ > 0) fetch_parameters(group_);
  }
  __device__ __forceinline__ void load(const T* x) {
    each_place([&](int i, int row, int group) {
      const T* const from = x + static_cast<std::int64_t>(min(row, rows_ - 1)) * k_ + column_of(group);
#pragma unroll
      for (int j = 0; j < kEights; ++j) eights_[i][j] = *reinterpret_cast<const Eight<T>*>(from + j * kApart);
    });
  }

  __device__ __forceinline__ void tell(const Inbox& inbox, Moments* moments) const {
    each_place([&](int i, int row, int group) {
      Moments own[kEights];
#pragma unroll
      for (int j = 0; j < kEights; ++j) {
        float v[8];
        eights_[i][j].get(v);
        own[j] = moments_of(v);
      }
      const Moments all = of_lanes<4>(together(together(own[0], own[2], 8), together(own[1], own[3], 8), 16), 32);
      const unsigned block = threadIdx.x % 8;
      if (block < Team::size() && row < rows_) {
        inbox.send(moments[(first_ / kNormColumns + group) * kMostTeamRows + row], all, block);
      }
    });
  }

  /// When all moments have come: hands each eight columns of a row to `put`.
  template <class Put>
  __device__ __forceinline__ void finish(Moments* moments, const Put& put) {
    Scaling* const scalings = reinterpret_cast<Scaling*>(moments + k_ / kNormColumns * kMostTeamRows);
    const int row_of_lanes = static_cast<int>(threadIdx.x) / kNormWarps;
    if (static_cast<int>(threadIdx.x) / 32 * kTeamNormRows < rows_) {
      const int warp = static_cast<int>(threadIdx.x) % kNormWarps;
      const Moments part = of_warp<kNormTurns>(norm_turns_of(k_, warp), [&](int turn) {
        return moments[(warp + turn * kNormWarps) * kMostTeamRows + min(row_of_lanes, rows_ - 1)];
      });
      const Scaling scaling = scaling_of(k_, part);
      if (warp == 0) scalings[row_of_lanes] = scaling;
    }
    __syncwarp();  // threads may have come back from the wait for the moments one by one
    __syncthreads();
    each_place([&](int i, int row, int group) {
      const Scaling scaling = scalings[row];
      if (i > 0 && row < kTeamNormRows) fetch_parameters(group);
      if (row >= rows_) return;
#pragma unroll
      for (int j = 0; j < kEights; ++j) {
        float v[8];
        eights_[i][j].get(v);
        normalise(v, scaling, parameters_[j]);
        put(row, column_of(group) + j * kApart, v);
      }
    });
  }

 private:
  static constexpr int kEights = kTeamNormRows, kApart = kNormColumns / kEights;

  template <class Work>
  __device__ __forceinline__ void each_place(const Work& work) const {
    int row = row_ + static_cast<int>(threadIdx.x) % 32 / 8, group = group_;
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
      if (i < count_) work(i, row, group);
      row += kTeamNormRows;
      if (row - static_cast<int>(threadIdx.x) % 32 / 8 >= rows_) row = static_cast<int>(threadIdx.x) % 32 / 8, ++group;
    }
  }
  __device__ __forceinline__ void fetch_parameters(int group) {
#pragma unroll
    for (int j = 0; j < kEights; ++j) parameters_[j] = norm_.at(j, column_of(group) + j * kApart);
  }
  __device__ __forceinline__ int column_of(int group) const {
    return first_ + group * kNormColumns + static_cast<int>(threadIdx.x) % 8 * 8;
  }

  const NormTask<T>& norm_;
  int rows_, k_, first_, count_, group_, row_;
  NormEight<T> parameters_[kEights];  ///< of the columns that the warp is at
  Eight<T> eights_[kMost][kEights] = {};
};

}  // namespace nibble
