// What the system's files say of free memory.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <limits>

#include "nibble/memory.h"
#include "runtime/process_memory.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kNoLimit = std::numeric_limits<std::uint64_t>::max();

/// A folder that stands for "/" with a process in control group /user/app.
class ControlGroups : public ::testing::Test {
 protected:
  ControlGroups() { write("proc/self/cgroup", "4:memory:/old\n0::/user/app\n"); }
  ~ControlGroups() override { fs::remove_all(root_); }

  void write(const fs::path& file, const std::string& text) const {
    fs::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << text;
  }
  void write_group(const fs::path& group, const std::string& limit, const std::string& used,
                   const std::string& inactive_file) const {
    const fs::path folder = "sys/fs/cgroup" / group;
    write(folder / "memory.max", limit + "\n");
    write(folder / "memory.current", used + "\n");
    write(folder / "memory.stat", "anon 7\ninactive_anon 8\nactive_file 9\ninactive_file " + inactive_file + "\n");
  }
  std::uint64_t available() const { return control_group_available(root_); }

 private:
  fs::path root_ = fs::temp_directory_path() / ("nibble-control-groups-" + std::to_string(::getpid()));
};

TEST_F(ControlGroups, WithoutALimitLeaveEverything) {
  EXPECT_EQ(available(), kNoLimit) << "no group has files";
  write_group("user/app", "max", "500", "100");
  EXPECT_EQ(available(), kNoLimit);
  write("proc/self/cgroup", "");
  EXPECT_EQ(available(), kNoLimit);
}

TEST_F(ControlGroups, GiveBackPagesOfFilesThatAreNotInUse) {
  write_group("user/app", "2000", "1500", "400");
  EXPECT_EQ(available(), 900U);
  write_group("user/app", "2000", "1500", "1600");
  EXPECT_EQ(available(), 2000U) << "never more than the limit";
  write_group("user/app", "2000", "2600", "500");
  EXPECT_EQ(available(), 0U) << "the limit was lowered below what is used";
}

TEST_F(ControlGroups, LeaveWhatTheTightestOfThemDoes) {
  write_group("user/app", "2000", "1500", "0");
  write_group("user/other", "10", "0", "0");
  EXPECT_EQ(available(), 500U) << "the process's own";
  write_group("user", "3000", "2800", "0");
  EXPECT_EQ(available(), 200U) << "the one above";
  write_group("", "4000", "3900", "0");
  EXPECT_EQ(available(), 100U) << "the uppermost, a container's own";
  write("proc/self/cgroup", "0::/\n");
  EXPECT_EQ(available(), 100U) << "which is where the process is";
}

TEST(Memory, OfTheMachineIsKnown) {
  EXPECT_GT(available_memory(Device::kCpu), 0U);
  EXPECT_GT(resident_memory(), 1U << 20);
}

}  // namespace
}  // namespace nibble
