// Reads the pickle of a checkpoint as data. The interpreter knows the opcodes a saved state dict uses and the names in
// pickle_globals.h; anything else ends it with a sentence naming what was asked for. A call in the pickle becomes a
// record of the call: nothing is ever imported or executed.
//
// Values live in one array and refer to each other by position, so no depth of nesting and no cycle can exhaust the
// stack. Strings are views of the bytes given to parse_pickle, which must outlive the Pickle. Pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "models/checkpoint/pickle_globals.h"

namespace nibble {

/// Position of a value in a Pickle.
using PickleRef = std::uint32_t;

struct PickleNone {};
struct PickleBytes {};  ///< a byte string, whose contents no state dict needs
struct PickleTuple {
  std::vector<PickleRef> items;
};
struct PickleList {
  std::vector<PickleRef> items;
};
struct PickleDict {
  std::vector<std::pair<PickleRef, PickleRef>> items;  ///< in the order they were set; keys may repeat
};
/// What would have been `callable(*arguments)`.
struct PickleCall {
  const PickleGlobal* callable;
  PickleRef arguments;  ///< always a PickleTuple
};
/// What the pickle leaves to its container to find: for torch.save, a storage.
struct PicklePersistent {
  PickleRef id;
};

using PickleValue = std::variant<PickleNone, bool, std::int64_t, double, std::string_view, PickleBytes, PickleTuple,
                                 PickleList, PickleDict, const PickleGlobal*, PickleCall, PicklePersistent>;

class Pickle {
 public:
  Pickle(std::vector<PickleValue> values, PickleRef root) : values_(std::move(values)), root_(root) {}

  PickleRef root() const { return root_; }
  /// The value as a T, or nullptr when it is something else.
  template <typename T>
  const T* get(PickleRef ref) const {
    return std::get_if<T>(&values_[ref]);
  }

 private:
  std::vector<PickleValue> values_;
  PickleRef root_;
};

/// Limits far above any checkpoint's needs (a state dict takes about 60 operations a tensor), against hostile files.
inline constexpr std::uint64_t kMaxPickleBytes = 256u << 20;
inline constexpr std::uint64_t kMaxPickleOperations = 8u << 20;

/// Runs one pickle of protocol 2 to 5 up to its STOP. `file` is for messages. Throws Error{kFormat}.
Pickle parse_pickle(std::span<const std::byte> bytes, const std::filesystem::path& file);

}  // namespace nibble
