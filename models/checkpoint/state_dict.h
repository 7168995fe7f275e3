// The tensors of a state dict, read out of its pickle: names, shapes, and where in which storage their elements lie.
// Every size is checked here against the storage the pickle itself declares. Pure functions over bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "models/checkpoint/checkpoint.h"

namespace nibble {

/// A view of one storage. Several tensors may share a storage (a tied output head does).
struct StateTensor {
  TensorInfo info;
  std::vector<std::int64_t> strides;  ///< in elements, not negative; one for each dimension
  std::uint64_t offset;               ///< of the first element, in bytes from the start of the storage
  std::string storage;                ///< its key: the record `data/<key>`
  std::uint64_t storage_bytes;        ///< as declared; every element of the view lies within
};

/// Reads `data.pkl`. The dict may be the whole object or the value of its "state_dict", "model" or "module"; entries
/// that are not tensors are left out. `file` is for messages. Throws Error{kFormat, kUnsupported}.
std::vector<StateTensor> parse_state_dict(std::span<const std::byte> pickle, const std::filesystem::path& file);

/// Copies the elements of `tensor` out of its storage, row-major, into `to` (of tensor.info.bytes() bytes).
void gather(const StateTensor& tensor, std::span<const std::byte> storage, std::span<std::byte> to);

/// Whether the elements already lie row-major without gaps.
bool is_contiguous(const StateTensor& tensor);

}  // namespace nibble
