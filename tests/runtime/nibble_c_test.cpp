#include "nibble/nibble_c.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/places.h"

namespace {

int append(const char* text, size_t bytes, void* user) {
  static_cast<std::string*>(user)->append(text, bytes);
  return 1;
}

TEST(CInterface, GeneratesAndStreams) {
  nibble_engine* engine = nullptr;
  const nibble_load_options load{"", "fp32", nullptr, 2};
  ASSERT_EQ(nibble_engine_open(nibble::bundled_model().c_str(), &load, &engine), NIBBLE_OK) << nibble_last_error();
  nibble_generate_options options;
  ASSERT_EQ(nibble_default_options(engine, &options), NIBBLE_OK);
  options.max_tokens = 12;
  options.temperature = 0;
  nibble_session* session = nullptr;
  ASSERT_EQ(nibble_session_open(engine, 64, &session), NIBBLE_OK);
  nibble_engine_free(engine);  // the session keeps what it needs
  std::string text;
  EXPECT_EQ(nibble_generate(session, "The king", &options, append, &text), NIBBLE_OK);
  EXPECT_GT(text.size(), 10U);
  std::string again;
  EXPECT_EQ(nibble_generate(session, "The king", &options, append, &again), NIBBLE_OK);
  EXPECT_EQ(text, again);
  nibble_session_free(session);
}

TEST(CInterface, TokenizesIntoAsMuchRoomAsThereIs) {
  nibble_engine* engine = nullptr;
  ASSERT_EQ(nibble_engine_open(nibble::bundled_model().c_str(), nullptr, &engine), NIBBLE_OK);
  size_t count = 0;
  EXPECT_EQ(nibble_tokenize(engine, "a little girl", nullptr, 0, &count), NIBBLE_OK);
  std::vector<int32_t> tokens(count);
  EXPECT_EQ(nibble_tokenize(engine, "a little girl", tokens.data(), tokens.size(), &count), NIBBLE_OK);
  EXPECT_EQ(tokens.front(), 2);
  nibble_engine_free(engine);
}

TEST(CInterface, ReportsFailuresAsAStatusAndASentence) {
  nibble_engine* engine = nullptr;
  EXPECT_EQ(nibble_engine_open("/no/such/model", nullptr, &engine), NIBBLE_NOT_FOUND);
  EXPECT_NE(std::string(nibble_last_error()).find("/no/such/model"), std::string::npos);
  const nibble_load_options load{"int5", nullptr, nullptr, 0};
  EXPECT_EQ(nibble_engine_open(nibble::bundled_model().c_str(), &load, &engine), NIBBLE_INVALID_ARGUMENT);
  EXPECT_EQ(std::string(nibble_last_error()), "scheme: 'int5' is not known");
  EXPECT_EQ(nibble_engine_open(nullptr, nullptr, &engine), NIBBLE_INVALID_ARGUMENT);
  EXPECT_EQ(engine, nullptr);
  nibble_engine_free(nullptr);
  nibble_session_free(nullptr);
}

}  // namespace
