// The keys and values of what has been read, in the compute dtype, unscaled, after the bias.
#pragma once

#include "kernels/buffer.h"

namespace nibble {

/// T[layers, sequences, heads, context, head_dim], keys and values apart.
struct KvCache {
  Buffer keys, values;
  DType dtype;
  int layers, sequences, heads, context, head_dim;

  static std::uint64_t bytes(DType dtype, int layers, int sequences, int heads, int context, int head_dim) {
    return 2U * size_of(dtype) * static_cast<std::uint64_t>(layers) * static_cast<std::uint64_t>(sequences) *
           static_cast<std::uint64_t>(heads) * static_cast<std::uint64_t>(context) *
           static_cast<std::uint64_t>(head_dim);
  }

  /// Elements from the beginning of `keys` or `values` to the first row of one head.
  std::int64_t offset(int layer, int sequence, int head) const {
    return (((static_cast<std::int64_t>(layer) * sequences + sequence) * heads + head) * context) * head_dim;
  }
};

}  // namespace nibble
