// That what quantize() wrote is on disk when it appears: this program's fsync stands in for the C library's and keeps
// account of what was flushed.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>

#include "golden.h"
#include "nibble/nibble.h"

namespace {

std::set<ino_t>& flushed() {
  static std::set<ino_t> inodes;
  return inodes;
}

}  // namespace

extern "C" int fsync(int descriptor) {
  struct stat status = {};
  if (::fstat(descriptor, &status) == 0) flushed().insert(status.st_ino);
  return static_cast<int>(::syscall(SYS_fsync, descriptor));
}

namespace nibble::testing {
namespace {

namespace fs = std::filesystem;

bool is_flushed(const fs::path& path) {
  struct stat status = {};
  return ::stat(path.c_str(), &status) == 0 && flushed().contains(status.st_ino);
}

TEST(Quantize, IsOnDiskWhenItAppears) {
  const fs::path folder = fs::temp_directory_path() / ("nibble-durable-" + std::to_string(::getpid()));
  fs::create_directories(folder);
  fs::copy(golden_model("pre_norm_fp16"), folder / "source");
  std::ofstream(folder / "source/README.md") << "a file that is copied";
  flushed().clear();
  quantize(folder / "source", folder / "new/out", {.scheme = Scheme::kNf4, .shard_bytes = 20'000});
  int files = 0;
  for (const auto& entry : fs::directory_iterator(folder / "new/out")) {
    EXPECT_TRUE(is_flushed(entry.path())) << entry.path();
    ++files;
  }
  EXPECT_GT(files, 4) << "weights, their index, config.json and the copy";
  for (const char* directory : {"new/out", "new", "."}) EXPECT_TRUE(is_flushed(folder / directory)) << directory;
  fs::remove_all(folder);
}

}  // namespace
}  // namespace nibble::testing
