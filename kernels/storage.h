// How a matrix is kept in memory, as a value: what was asked for at load, or what a checkpoint holds. Sizes follow from
// it without any weights, and weights follow from it and what a file holds.
#pragma once

#include <cstdint>

#include "kernels/layout/weight.h"
#include "kernels/thread_pool.h"
#include "nibble/types.h"

namespace nibble {

struct Storage {
  Scheme scheme;
  DType dtype;    ///< of the values under scheme none; what they are rounded to before they are quantized otherwise
  int blocksize;  ///< weights that share a scale in 4-bit schemes; no meaning in the others

  friend bool operator==(const Storage&, const Storage&) = default;
};

struct StorageBytes {
  std::uint64_t codes;  ///< the weights themselves
  std::uint64_t state;  ///< what decoding needs beside them
};

/// Whether weights of this scheme are 4-bit codes, whether those are NF4's, and whether absmax is double-quantized.
bool is_4bit(Scheme scheme);
bool is_nf4(Scheme scheme);
bool is_nested(Scheme scheme);

/// Whether they are int8's, however they are multiplied.
bool is_int8(Scheme scheme);

/// Whether they are whole numbers in groups along a row, as GPTQ's.
bool is_int4(Scheme scheme);

/// The block size where none is asked for: bitsandbytes' 64, and GPTQ's 128 for int4.
int default_blocksize(Scheme scheme);
/// Throws Error{kInvalidArgument} unless bitsandbytes allows the block size. Groups of int4 are of the same sizes.
void check_blocksize(int blocksize);

/// What an [n, k] matrix takes; equals code_bytes and state_bytes of the Weight that `store` makes.
StorageBytes storage_bytes(const Storage& storage, std::int64_t n, std::int64_t k);

/// What a weight in memory is. The dtype of a quantized weight is not in it and is given.
Storage storage_of(const Weight& weight, DType dtype);

/// Turns a floating-point weight into the storage asked for, or a quantized one into plain values; one that is already
/// so is returned as it is, and int8 weights are multiplied as the storage says. `name` is for messages. Throws
/// Error{kFormat} for weights or scales that are NaN or infinite, Error{kInvalidArgument} when a quantized weight would
/// have to be quantized again.
Weight store(const Weight& weight, const Storage& target, std::string_view name, ThreadPool& pool);

/// Not initialised, for the absmax of `blocks` blocks: memory of a weight, or for a while where they are
/// double-quantized.
Buffer allocate_absmax(const Storage& storage, std::int64_t blocks);

/// 4-bit codes and their blocks' absmax as the layout of a storage, which double-quantizes the absmax or not.
Weight quantized(const Buffer& codes, const Buffer& absmax, const Storage& storage, int n, int k);

/// int8 weights as the layout of one of their schemes.
Weight int8_weight(const Int8Row& weight, Scheme scheme);

/// The levels of a 4-bit scheme.
Buffer levels_of(Scheme scheme);

/// What `store` asks of a quantized weight, which can be turned into plain values and nothing else, as quantizing twice
/// loses twice: throws Error{kInvalidArgument} unless `target` is plain, or the same weights.
void require_convertible(const Storage& stored, const Storage& target, std::string_view name);

/// What `store` asks of a floating-point weight: throws Error{kFormat} when one of its values is NaN or infinite, or
/// will be when it is rounded as `target` says.
template <class T>
void require_finite(const Dense<T>& weight, const Storage& target, std::string_view name, ThreadPool& pool);

}  // namespace nibble
