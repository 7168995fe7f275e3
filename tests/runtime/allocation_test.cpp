// Generating takes no memory from token to token, but for its text. This program counts what it asks operator new for.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdlib>
#include <new>

#include "golden.h"
#include "nibble/nibble.h"

namespace {

std::atomic<long> allocations = 0;

void* counted(std::size_t size, std::size_t alignment) {
  ++allocations;
  void* const memory = std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(std::size_t size) { return counted(size, alignof(std::max_align_t)); }
void* operator new(std::size_t size, std::align_val_t alignment) {
  return counted(size, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

namespace nibble::testing {
namespace {

/// Allocations of each token but the first few, of two sequences of a model without a tokenizer.
std::vector<long> allocations_of_tokens(const GenerateOptions& options) {
  const Engine engine = Engine::open(golden_model("pre_norm"), {.scheme = Scheme::kNf4, .threads = 2});
  Session session = engine.session({.context = 60, .sequences = 2});
  const std::vector<std::vector<int>> prompts{{2, 17, 9}, {2, 33, 5}};
  std::vector<long> counts;
  counts.reserve(100);
  session.generate(prompts, options, [&](const Step&) {
    counts.push_back(allocations);
    return true;
  });
  std::vector<long> differences;
  for (std::size_t i = 9; i < counts.size(); ++i) differences.push_back(counts[i] - counts[i - 1]);
  return differences;
}

TEST(Allocation, NoneForATokenChosenGreedily) {
  GenerateOptions options;
  options.max_tokens = 40;
  options.ignore_eos = true;
  options.temperature = 0;
  EXPECT_EQ(allocations_of_tokens(options), std::vector<long>(71, 0));
}

TEST(Allocation, NoneForATokenThatIsSampled) {
  GenerateOptions options;
  options.max_tokens = 40;
  options.ignore_eos = true;
  options.temperature = 0.8F;
  options.top_k = 20;
  options.top_p = 0.9F;
  options.repetition_penalty = 1.1F;
  EXPECT_EQ(allocations_of_tokens(options), std::vector<long>(71, 0));
}

TEST(Allocation, WithTextIsThatOfAGrowingStringAlone) {
  const Engine engine = Engine::open(bundled_model(), {.threads = 2});
  Session session = engine.session({.context = 200});
  GenerateOptions options;
  options.max_tokens = 150;
  options.ignore_eos = true;
  std::vector<long> counts;
  counts.reserve(150);
  std::size_t longest = 0;
  const OnStep count = [&](const Step& step) {
    counts.push_back(allocations);
    longest = std::max(longest, step.text.size());
    return true;
  };
  const std::string text = session.generate("Once upon a time", options, count).text;
  ASSERT_LE(longest, std::string().capacity()) << "what a string holds in itself";
  // A string doubles its room; the first few tokens come before the counting.
  EXPECT_LE(counts.back() - counts[8], static_cast<long>(std::bit_width(text.size())));
}

}  // namespace
}  // namespace nibble::testing
