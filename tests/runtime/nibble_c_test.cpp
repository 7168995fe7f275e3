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

/// Zeros, as C has them, but for what `set` sets.
template <class Set>
nibble_load_options options_with(Set&& set) {
  nibble_load_options options{};
  set(options);
  return options;
}

/// A session of the bundled model, and its options for some greedy tokens.
nibble_session* opened(const nibble_load_options& load, int max_tokens, nibble_generate_options& options) {
  nibble_engine* engine = nullptr;
  nibble_session* session = nullptr;
  EXPECT_EQ(nibble_engine_open(nibble::bundled_model().c_str(), &load, &engine), NIBBLE_OK) << nibble_last_error();
  EXPECT_EQ(nibble_default_options(engine, &options), NIBBLE_OK);
  options.max_tokens = max_tokens;
  options.temperature = 0;
  EXPECT_EQ(nibble_session_open(engine, 64, &session), NIBBLE_OK);
  nibble_engine_free(engine);  // the session keeps what it needs
  return session;
}

TEST(CInterface, GeneratesAndStreams) {
  nibble_generate_options options;
  nibble_session* session =
      opened(options_with([](auto& o) { o.scheme = "", o.compute_dtype = "fp32", o.threads = 2; }), 12, options);
  ASSERT_NE(session, nullptr);
  std::string text;
  EXPECT_EQ(nibble_generate(session, "The king", &options, append, &text), NIBBLE_OK);
  EXPECT_GT(text.size(), 10U);
  std::string again;
  EXPECT_EQ(nibble_generate(session, "The king", &options, append, &again), NIBBLE_OK);
  EXPECT_EQ(text, again);
  nibble_session_free(session);
}

/// What the bundled model goes on with.
std::string continued(const nibble_load_options& load) {
  nibble_generate_options options;
  nibble_session* session = opened(load, 24, options);
  std::string text;
  EXPECT_EQ(nibble_generate(session, "The king", &options, append, &text), NIBBLE_OK);
  nibble_session_free(session);
  return text;
}

TEST(CInterface, TakesWhatACpuIsAskedFor) {
  const auto asked = options_with([](auto& o) { o.compute_dtype = "fp32", o.threads = 1, o.cpu_target = "portable"; });
  EXPECT_FALSE(continued(asked).empty());
  EXPECT_EQ(continued(asked), continued(asked));
}

int refuse(const char*, size_t bytes, void* user) {
  EXPECT_EQ(bytes, 0U);
  ++*static_cast<int*>(user);
  return 0;
}

TEST(CInterface, StopsWhileALongPromptIsRead) {
  nibble_engine* engine = nullptr;
  nibble_session* session = nullptr;
  ASSERT_EQ(nibble_engine_open(nibble::bundled_model().c_str(), nullptr, &engine), NIBBLE_OK);
  ASSERT_EQ(nibble_session_open(engine, 0, &session), NIBBLE_OK);
  std::string prompt;
  for (int i = 0; i < 300; ++i) prompt += "The king said no. ";
  prompt.resize(3000);
  int calls = 0;
  EXPECT_EQ(nibble_generate(session, prompt.c_str(), nullptr, refuse, &calls), NIBBLE_OK) << nibble_last_error();
  EXPECT_EQ(calls, 1);
  nibble_session_free(session);
  nibble_engine_free(engine);
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
  const auto refused = [&](const nibble_load_options& load) {
    EXPECT_EQ(nibble_engine_open(nibble::bundled_model().c_str(), &load, &engine), NIBBLE_INVALID_ARGUMENT);
    return std::string(nibble_last_error());
  };
  EXPECT_EQ(refused(options_with([](auto& o) { o.scheme = "int5"; })), "scheme: 'int5' is not known");
  EXPECT_NE(refused(options_with([](auto& o) { o.scheme = "nf4", o.blocksize = 7; })).find("7"), std::string::npos);
  EXPECT_NE(refused(options_with([](auto& o) { o.cpu_target = "mmx"; })).find("mmx"), std::string::npos);
  EXPECT_NE(refused(options_with([](auto& o) { o.threads = 4096, o.pin_threads = 1; })).find("4096"),
            std::string::npos);
  EXPECT_NE(refused(options_with([](auto& o) { o.int8_activations = 1; })).find("8-bit activations"),
            std::string::npos);
  EXPECT_EQ(nibble_engine_open(nullptr, nullptr, &engine), NIBBLE_INVALID_ARGUMENT);
  EXPECT_EQ(engine, nullptr);
  nibble_engine_free(nullptr);
  nibble_session_free(nullptr);
}

}  // namespace
