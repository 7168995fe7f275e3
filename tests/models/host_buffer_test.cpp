#include "models/checkpoint/host_buffer.h"

#include <gtest/gtest.h>

#include "tests/models/checkpoint_testing.h"

namespace nibble {
namespace {

TEST(HostBuffer, NamesTheFileThereIsNoMemoryFor) {
  expect_error(ErrorKind::kOutOfMemory, {"w.bin: cannot allocate 1152921504606846976 bytes"},
               [] { allocate(std::uint64_t{1} << 60, "w.bin"); });
}

}  // namespace
}  // namespace nibble
