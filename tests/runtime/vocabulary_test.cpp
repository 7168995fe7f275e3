// A tokenizer and a model that do not belong together.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "golden.h"
#include "nibble/nibble.h"
#include "tests/places.h"

namespace nibble::testing {
namespace {

namespace fs = std::filesystem;

TEST(Vocabulary, OfTokenizerAndModelMustAgree) {
  const fs::path directory = fs::temp_directory_path() / ("nibble-vocabulary-" + std::to_string(::getpid()));
  fs::copy(golden_model("pre_norm"), directory);
  fs::copy_file(bundled_model() + "/tokenizer.model", directory / "tokenizer.model");
  std::string sentence;
  try {
    Engine::open(directory.string());
  } catch (const Error& error) {
    sentence = error.what();
  }
  fs::remove_all(directory);
  EXPECT_NE(
      sentence.find("the tokenizer and config.json disagree: expected at most 96 tokens (vocab_size), found 8192"),
      std::string::npos)
      << sentence;
}

}  // namespace
}  // namespace nibble::testing
