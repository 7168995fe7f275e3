// Files mapped into memory, and what they take of it.
#include "models/checkpoint/mapped_file.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

#include "tests/models/checkpoint_testing.h"

namespace nibble {
namespace {

/// Kilobytes of files that are in the process's memory.
std::int64_t resident_file_pages() {
  std::ifstream status("/proc/self/status");
  std::string key;
  std::int64_t kilobytes = 0;
  while (status >> key) {
    if (key == "RssFile:" && status >> kilobytes) return kilobytes;
    status.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return -1;
}

TEST(MappedFile, LeavesMemoryWhereWhatIsHeldOfItHasBeenRead) {
  constexpr std::size_t kBytes = std::size_t{32} << 20, kWhole = kBytes / 1024 * 3 / 4;
  const TempDir folder;
  const std::filesystem::path path = folder / "file";
  write_file(path, std::string(kBytes, '\x5a'));
  const auto file = MappedFile::open(path);
  const auto holds_what_was_written = [&] {
    return std::ranges::all_of(file->bytes(), [](std::byte byte) { return byte == std::byte{0x5a}; });
  };
  const std::int64_t before = resident_file_pages();
  if (before < 0) GTEST_SKIP() << "this system does not say";
  auto held = MappedFile::hold(file, file->bytes().subspan(100, kBytes - 200));
  EXPECT_TRUE(holds_what_was_written());
  EXPECT_GT(resident_file_pages() - before, static_cast<std::int64_t>(kWhole));
  held.reset();
  EXPECT_LT(resident_file_pages() - before, static_cast<std::int64_t>(kBytes / 1024 - kWhole));
  EXPECT_TRUE(holds_what_was_written()) << "it comes back";
}

}  // namespace
}  // namespace nibble
