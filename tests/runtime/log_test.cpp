#include "nibble/log.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "golden.h"
#include "nibble/nibble.h"

namespace nibble::testing {
namespace {

TEST(Log, IsHeardByTheSinkAndByNobodyWithoutOne) {
  const auto open = [] { Engine::open(golden_model("pre_norm"), {.threads = 1}); };
  std::vector<std::string> heard;
  set_log_sink([&](LogLevel, std::string_view message) { heard.emplace_back(message); });
  open();
  ASSERT_FALSE(heard.empty());
  EXPECT_NE(heard.back().find("computing in fp32"), std::string::npos) << heard.back();

  set_log_sink({});
  heard.clear();
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  open();
  EXPECT_EQ(::testing::internal::GetCapturedStdout() + ::testing::internal::GetCapturedStderr(), "");
  EXPECT_TRUE(heard.empty());
}

TEST(Log, MayUseNibbleAndReplaceTheSinkFromInsideASink) {
  int first = 0, second = 0;
  set_log_sink([&](LogLevel, std::string_view) {
    ++first;
    set_log_sink([&](LogLevel, std::string_view) { ++second; });
    Engine::open(golden_model("pre_norm"), {.threads = 1});
  });
  Engine::open(golden_model("pre_norm"), {.threads = 1});
  set_log_sink({});
  EXPECT_EQ(first, 1);
  EXPECT_GE(second, 1);
}

}  // namespace
}  // namespace nibble::testing
