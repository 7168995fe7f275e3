#include "nibble/nibble_c.h"

#include <gtest/gtest.h>

#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "tests/affinity.h"
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
  const auto with_table = [&](const char* embedding) {
    nibble_load_options load = asked;
    load.embedding = embedding;
    return continued(load);
  };
  EXPECT_EQ(with_table("compute"), continued(asked));
  EXPECT_NE(with_table("int8"), "");
}

TEST(CInterface, PinsThreads) {
  if (nibble::cores_of(0) < 2) GTEST_SKIP() << "there is one core only";
  nibble_generate_options options;
  nibble_session* session = opened(options_with([](auto& o) { o.threads = 2; }), 1, options);
  EXPECT_EQ(nibble::pinned_threads(), 0);
  nibble_session_free(session);
  session = opened(options_with([](auto& o) { o.threads = 2, o.pin_threads = 1; }), 1, options);
  EXPECT_EQ(nibble::pinned_threads(), 1);
  nibble_session_free(session);
}

TEST(CInterface, GivesAfterResetWhatANewSessionGives) {
  const auto load = options_with([](auto& o) { o.threads = 2; });
  const char* prompt =
      "Once upon a time there was a king who had three daughters, and the youngest of them was so "
      "beautiful that the sun itself wondered whenever it shone in her face";
  nibble_generate_options options;
  nibble_session* session = opened(load, 20, options);
  nibble_session* fresh = opened(load, 20, options);
  options.temperature = 1;
  options.seed = 5;
  std::string text, again, of_fresh;
  EXPECT_EQ(nibble_generate(session, "The dog", &options, nullptr, nullptr), NIBBLE_OK);
  EXPECT_EQ(nibble_session_reset(session), NIBBLE_OK);
  EXPECT_EQ(nibble_generate(session, prompt, &options, append, &text), NIBBLE_OK);
  EXPECT_EQ(nibble_session_reset(session), NIBBLE_OK);
  EXPECT_EQ(nibble_generate(session, prompt, &options, append, &again), NIBBLE_OK);
  EXPECT_EQ(nibble_generate(fresh, prompt, &options, append, &of_fresh), NIBBLE_OK);
  EXPECT_GT(text.size(), 20U);
  EXPECT_EQ(again, text);
  EXPECT_EQ(of_fresh, text);
  nibble_session_free(session);
  nibble_session_free(fresh);
}

TEST(CInterface, TurnsWhatACallbackThrowsIntoAStatus) {
  nibble_generate_options options;
  nibble_session* session = opened(options_with([](auto& o) { o.threads = 2; }), 4, options);
  const auto generate = [&](nibble_on_text on_text) {
    const nibble_status status = nibble_generate(session, "The king", &options, on_text, nullptr);
    return std::pair(status, std::string(nibble_last_error()));
  };
  using Failure = std::pair<nibble_status, std::string>;
  EXPECT_EQ(generate([](const char*, size_t, void*) -> int { throw 7; }),
            Failure(NIBBLE_INTERNAL, "a callback threw something that is not a std::exception"));
  EXPECT_EQ(generate([](const char*, size_t, void*) -> int { throw std::runtime_error("enough"); }),
            Failure(NIBBLE_INTERNAL, "enough"));
  EXPECT_EQ(generate([](const char*, size_t, void*) -> int { throw std::bad_alloc(); }),
            Failure(NIBBLE_OUT_OF_MEMORY, "out of memory"));
  EXPECT_EQ(generate([](const char*, size_t, void*) { return 1; }), Failure(NIBBLE_OK, ""));
  nibble_session_free(session);
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
  EXPECT_EQ(refused(options_with([](auto& o) { o.embedding = "nf4"; })), "embedding: 'nf4' is not known");
  EXPECT_NE(refused(options_with([](auto& o) { o.scheme = "nf4", o.blocksize = 7; })).find("7"), std::string::npos);
  EXPECT_NE(refused(options_with([](auto& o) { o.cpu_target = "mmx"; })).find("mmx"), std::string::npos);
  EXPECT_NE(refused(options_with([](auto& o) { o.threads = 4096; })).find("4096"), std::string::npos);
  EXPECT_NE(refused(options_with([](auto& o) { o.int8_activations = 1; })).find("8-bit activations"),
            std::string::npos);
  EXPECT_EQ(nibble_engine_open(nullptr, nullptr, &engine), NIBBLE_INVALID_ARGUMENT);
  EXPECT_EQ(engine, nullptr);
  EXPECT_EQ(nibble_session_reset(nullptr), NIBBLE_INVALID_ARGUMENT);
  EXPECT_EQ(std::string(nibble_last_error()), "session: expected a pointer, found NULL");
  nibble_engine_free(nullptr);
  nibble_session_free(nullptr);
}

}  // namespace
