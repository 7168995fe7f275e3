// What long work reports while it goes on.
#pragma once

#include <cstdint>
#include <functional>

namespace nibble {

/// Called with units done and units in all, bytes where a model is loaded; monotonous, from one thread at a time.
using Progress = std::function<void(std::uint64_t done, std::uint64_t total)>;

}  // namespace nibble
