// A warp's weights on their way through shared memory, in a ring of its own.
#pragma once

#include "kernels/cuda/views.cuh"

namespace nibble {

/// Columns of tiles, [first, last), that a warp has of every row of tiles that it takes.
struct Share {
  int first, last;

  __device__ __forceinline__ Share(int col_tiles, int sharers_shift, int sharer) {
    const int each = col_tiles >> sharers_shift, longer = col_tiles - (each << sharers_shift);
    first = sharer * each + min(sharer, longer);
    last = first + each + (sharer < longer ? 1 : 0);
  }
  /// Of so many sharers, one behind the other.
  __device__ __forceinline__ Share(int col_tiles, int sharers_shift, int sharer, int sharers)
      : first(Share(col_tiles, sharers_shift, sharer).first),
        last(Share(col_tiles, sharers_shift, sharer + sharers - 1).last) {}
  __device__ __forceinline__ Share(int begin, int end) : first(begin), last(end) {}
  __device__ __forceinline__ int count() const { return last - first; }
};

/// A warp's way through its weights, by batches of tiles of kDown rows: `ask` sends for the next batch, `take` waits
/// for the one that was asked for first. kStages are asked for at first, then one for each that was taken. Tile i of a
/// batch is of row i / kAcross and column i % kAcross.
template <class View, int kStages, int kDown = 1>
class WeightStream {
 public:
  static constexpr int kAcross = kBatch / kDown;
  static constexpr int kTileBytes = View::kPieces * 32 * 16;
  static constexpr int kStageBytes = kBatch * kTileBytes + 32 * View::kNoteBytes;
  static constexpr int kBytes = kStages * kStageBytes;
  using Batch = typename View::Read[kBatch];

  /// kDown rows of tiles from row_tile + row on, from row_tile + row + step on, ... below row_tile + rows. `room` has
  /// kBytes.
  __device__ __forceinline__ WeightStream(const View& view, int row_tile, int row, int step, int rows, Share share,
                                          std::uint32_t room, int lane)
      : view_(&view),
        place_(view.place(row_tile, lane)),
        share_(share),
        row_(row),
        rows_(rows),
        step_(step),
        col_(share.first),
        pieces_(view.pieces(view.template source<kAcross>(row_tile, lane), row, share.first)),
        lane_(lane),
        room_(room) {}

  __device__ __forceinline__ void ask() {
    const std::uint32_t stage = room_ + stage_;
    const auto tiles_of = [&](int row) { return row_ + row < rows_ ? share_.last - col_ : 0; };
#pragma unroll
    for (int row = 0; row < kDown; ++row) {
      view_->template copy<kAcross>(pieces_ + row * view_->pieces_down(), tiles_of(row),
                                    stage + row * kAcross * kTileBytes, lane_);
    }
    if constexpr (View::kNoteBytes > 0) {
      // Lane t of four has the notes of tile t.
      const int row = lane_ % 4 / kAcross, col = lane_ % kAcross;
      if (col < tiles_of(row)) {
        view_->copy_notes(place_, row_ + row, col_ + col, stage + kBatch * kTileBytes, lane_);
      }
    }
    commit_copies();
    turn();
    col_ += kAcross, pieces_ += kAcross * View::kPiecesOn;
    if (col_ < share_.last) return;
    pieces_ += step_ * view_->pieces_down() - (col_ - share_.first) * View::kPiecesOn;
    col_ = share_.first, row_ += step_;
  }

  /// What the batch has no tiles for is left as it was before.
  __device__ __forceinline__ void take(Batch& batch) const {
    wait();
#pragma unroll
    for (int i = 0; i < kBatch; ++i) batch[i] = read(i);
    __syncwarp();
  }

  /// The same one by one: once `wait` has come back `read` tiles, then meet in the warp and `ask`.
  __device__ __forceinline__ void wait() const {
    wait_for_copies<kStages - 1>();
    if constexpr (View::kNoteBytes > 0) view_->settle_notes(place_, room_ + stage_ + kBatch * kTileBytes, lane_);
    __syncwarp();
  }
  __device__ __forceinline__ typename View::Read read(int tile) const {
    const std::uint32_t stage = room_ + stage_;
    return view_->template read<kAcross>(place_, tile, stage, stage + kBatch * kTileBytes, lane_);
  }

 private:
  __device__ __forceinline__ void turn() { stage_ = stage_ + kStageBytes == kBytes ? 0 : stage_ + kStageBytes; }

  const View* view_;
  typename View::Place place_;
  Share share_;
  int row_, rows_, step_, col_;
  const uint4* pieces_;
  int lane_;
  std::uint32_t room_, stage_ = 0;
};

}  // namespace nibble
