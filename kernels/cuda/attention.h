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
  int parts;        ///< most that a segment of one row has its keys in
  bool any_single;  ///< whether a segment has one row
  bool any_longer;  ///< whether a segment has more

  friend auto operator<=>(const BatchShape&, const BatchShape&) = default;
};

inline constexpr int kMostHeadDim = 512;

/// Parts that the keys of a segment of one row are cut into, a power of two; a part has at least half of kPartKeys.
inline constexpr int kMostParts = 8, kPartKeys = 64;
__host__ __device__ inline int attention_parts(int keys) {
  int parts = 1;
  while (parts < kMostParts && parts * kPartKeys < keys) parts *= 2;
  return parts;
}

/// y = softmax(q k^T) v a head; k and v are appended to the cache on the way.
template <class T>
void attend_on_device(const Launch& launch, const DeviceBatch& batch, const BatchShape& shape, Tensor q, Tensor k,
                      Tensor v, int layer, const KvCache& cache, Tensor y);

}  // namespace nibble
