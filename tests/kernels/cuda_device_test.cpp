// What is said of a GPU that nibble cannot use. Needs none.
#include "kernels/cuda/device.h"

#include <gtest/gtest.h>

#include "kernels/cuda/check.h"

namespace nibble {
namespace {

template <class F>
std::string sentence_of(F&& f, ErrorKind kind) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind);
    return error.what();
  }
  return "no error";
}

GpuFacts usable() {
  return {.driver = 13020,
          .runtime = 13010,
          .gpus = 1,
          .name = "NVIDIA H200",
          .major = 9,
          .reserved_shared = kReservedShared,
          .multiprocessors = 132};
}

TEST(Gpu, IsUsableFromComputeCapability8On) {
  EXPECT_NO_THROW(require_usable(usable()));
  GpuFacts old = usable();
  old.name = "Tesla V100";
  old.major = 7;
  EXPECT_EQ(sentence_of([&] { require_usable(old); }, ErrorKind::kUnsupported),
            "device cuda: expected a GPU of compute capability 8.0 or later, found Tesla V100 of 7.0");
}

TEST(Gpu, IsMissedByName) {
  EXPECT_EQ(sentence_of([] { require_usable({.runtime = 13010}); }, ErrorKind::kNotFound),
            "device cuda: expected an NVIDIA GPU and its driver, found none");
  EXPECT_EQ(sentence_of([] { require_usable({.driver = 13020, .runtime = 13010}); }, ErrorKind::kNotFound),
            "device cuda: expected an NVIDIA GPU and its driver, found none");
}

TEST(Gpu, NeedsADriverAsNewAsTheBuild) {
  EXPECT_EQ(sentence_of([] { require_usable({.driver = 11040, .runtime = 13010, .driver_too_old = true}); },
                        ErrorKind::kUnsupported),
            "device cuda: expected a driver for CUDA 13.1, which this nibble was built with, or later, found one for "
            "CUDA 11.4; update it");
}

TEST(Gpu, MustKeepAsMuchSharedMemoryAsKernelsCountOn) {
  GpuFacts other = usable();
  other.reserved_shared = 2048;
  EXPECT_EQ(sentence_of([&] { require_usable(other); }, ErrorKind::kUnsupported),
            "device cuda: expected the driver to keep 1024 bytes of shared memory, found 2048");
}

TEST(Gpu, ThatIsLostIsSaidToBe) {
  const std::string lost =
      sentence_of([] { check(cudaErrorIllegalAddress, "waiting for the device"); }, ErrorKind::kUnsupported);
  EXPECT_TRUE(lost.starts_with("device cuda: waiting for the device failed: ")) << lost;
  EXPECT_TRUE(lost.ends_with("; the GPU is lost to this process, which has to be started again")) << lost;
  const std::string refused =
      sentence_of([] { check(cudaErrorMemoryAllocation, "allocating pinned memory"); }, ErrorKind::kOutOfMemory);
  EXPECT_TRUE(refused.starts_with("device cuda: allocating pinned memory failed: ")) << refused;
  EXPECT_EQ(refused.find("lost"), std::string::npos);
}

}  // namespace
}  // namespace nibble
