// Memory that the system refuses while a model is loaded. Not under sanitizers, whose shadow takes more addresses than
// any limit leaves.
#include <gtest/gtest.h>

#include "program.h"

namespace nibble::testing {
namespace {

/// KB of addresses that the program takes without doing anything, within 10 MB: its libraries', mostly.
int least_kilobytes() {
  for (int kilobytes = 10'000; kilobytes < 8'000'000; kilobytes += 10'000) {
    const std::string limit = "ulimit -v " + std::to_string(kilobytes) + "; ";
    if (std::system((limit + NIBBLE_CLI + " --version >/dev/null 2>&1").c_str()) == 0) return kilobytes;
  }
  ADD_FAILURE() << "the program does not start in 8 GB of addresses";
  return 0;
}

/// The sentence of a run that may have so many KB of addresses beyond what it takes without doing anything.
std::string failure_within(int kilobytes, const std::string& arguments) {
  const TempDir folder;
  const std::string command = "ulimit -v " + std::to_string(least_kilobytes() + kilobytes) + "; " + NIBBLE_CLI + " " +
                              arguments + " >" + (folder / "out") + " 2>" + (folder / "err");
  EXPECT_EQ(WEXITSTATUS(std::system(command.c_str())), 1);
  EXPECT_EQ(read_file(folder / "out"), "");
  return read_file(folder / "err");
}

TEST(AddressSpace, WithoutRoomForWeightsEndsInASentence) {
  // The token table alone takes 77 MB.
  EXPECT_EQ(failure_within(40'000, "generate -m synthetic:opt-125m --scheme none --dtype fp16 -t 1 --tokens 2"),
            "nibble: memory: 77217792 bytes were refused by the system\n");
}

TEST(AddressSpace, WithoutRoomForThreadsEndsInASentence) {
  const std::string sentence =
      failure_within(400'000, "generate -m " + golden_model("pre_norm") + " -t 500 --tokens 2");
  EXPECT_TRUE(sentence.starts_with("nibble: threads: expected 500, found that the system has ")) << sentence;
}

}  // namespace
}  // namespace nibble::testing
