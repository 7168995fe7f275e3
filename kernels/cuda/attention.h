// Attention over the cache. Which kernel takes a sequence depends on its own rows and the head size alone.
#pragma once

#include "kernels/backend.h"
#include "kernels/cuda/linear.h"

namespace nibble {

/// The batch as kernels read it, all in device memory.
struct DeviceBatch {
  const int* tokens;        ///< [rows]
  const int* positions;     ///< [rows]
  const int* sequence_of;   ///< [rows]: the row's sequence
  const int* slot_of;       ///< [rows]: the row's place in its sequence's cache
  const int* outputs;       ///< [outputs]
  const Segment* segments;  ///< [segments]
};

/// What attention may assume of a batch when it is launched; a recorded launch serves every batch of the same shape.
struct BatchShape {
  int rows;
  int segments;
  int longest;      ///< most rows of a segment
  int keys;         ///< no sequence has more keys after this step
  bool any_single;  ///< whether a segment has one row
  bool any_longer;  ///< whether a segment has more

  friend auto operator<=>(const BatchShape&, const BatchShape&) = default;
};

inline constexpr int kMostHeadDim = 512;

/// Keys that one block of the decode kernel reads.
inline constexpr int kSplitKeys = 256;

/// Working memory: partial results of the splits, and counters that begin and end as zero.
struct AttentionScratch {
  float* partial;
  int* arrived;
};
std::size_t attention_partial_bytes(int sequences, int width, int context);

/// y = softmax(q k^T) v a head; k and v are appended to the cache on the way.
template <class T>
void attend_on_device(const Launch& launch, const DeviceBatch& batch, const BatchShape& shape, Tensor q, Tensor k,
                      Tensor v, int layer, const KvCache& cache, const AttentionScratch& scratch, Tensor y);

}  // namespace nibble
