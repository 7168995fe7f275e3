#include "runtime/sampler.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <iterator>
#include <numeric>
#include <string>

#include "nibble/error.h"

namespace nibble {
namespace {

/// The shortest text that stands for the number: 0.1, 1e-06.
template <class T>
std::string show(T number) {
  std::array<char, 32> text{};
  return {text.data(), std::to_chars(text.data(), text.data() + text.size(), number).ptr};
}

template <class T>
void require(bool holds, const char* option, const std::string& expected, T found) {
  if (holds) return;
  throw Error(ErrorKind::kInvalidArgument, std::string(option) + ": expected " + expected + ", found " + show(found));
}

}  // namespace

void check_options(const GenerateOptions& o) {
  using Options = GenerateOptions;
  const auto in_range = [](float value) { return value >= Options::kLeast && value <= Options::kMost; };
  const std::string range = "a number from " + show(Options::kLeast) + " to " + show(Options::kMost);
  require(o.max_tokens >= 1, "max_tokens", "at least 1", o.max_tokens);
  require(o.temperature == 0 || in_range(o.temperature), "temperature", "0 or " + range, o.temperature);
  require(o.top_k >= 0, "top_k", "at least 0", o.top_k);
  require(o.top_p >= 0 && o.top_p <= 1, "top_p", "a number from 0 to 1", o.top_p);
  require(o.min_p >= 0 && o.min_p <= 1, "min_p", "a number from 0 to 1", o.min_p);
  require(in_range(o.repetition_penalty), "repetition_penalty", range, o.repetition_penalty);
  require(o.logprobs >= -1, "logprobs", "at least -1", o.logprobs);
  if (std::ranges::any_of(o.stop, &std::string::empty)) {
    throw Error(ErrorKind::kInvalidArgument, "stop: expected strings of at least one character, found an empty one");
  }
}

std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xd2511f53} * counter[0], b = std::uint64_t{0xcd9e8d57} * counter[2];
    const auto high = [](std::uint64_t product) { return static_cast<std::uint32_t>(product >> 32); };
    const auto low = [](std::uint64_t product) { return static_cast<std::uint32_t>(product); };
    counter = {high(b) ^ counter[1] ^ key[0], low(b), high(a) ^ counter[3] ^ key[1], low(a)};
    key = {key[0] + 0x9e3779b9U, key[1] + 0xbb67ae85U};
  }
  return counter;
}

std::uint64_t random_bits(std::uint64_t seed, int sequence, int step) {
  const auto bits = philox({static_cast<std::uint32_t>(step), static_cast<std::uint32_t>(sequence), 0, 0},
                           {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
  return std::uint64_t{bits[1]} << 32 | bits[0];
}

std::vector<TokenLogprob> logprobs(std::span<const float> logits, int chosen, int count) {
  const double largest = *std::ranges::max_element(logits);
  const double sum = std::transform_reduce(logits.begin(), logits.end(), 0.0, std::plus<>(),
                                           [&](float logit) { return std::exp(static_cast<double>(logit) - largest); });
  const auto entry = [&](int id) {
    const double logit = logits[static_cast<std::size_t>(id)];
    return TokenLogprob{id, static_cast<float>(logit - largest - std::log(sum))};
  };
  std::vector<int> likeliest(logits.size());
  std::iota(likeliest.begin(), likeliest.end(), 0);
  const auto alternatives = static_cast<std::ptrdiff_t>(std::min(static_cast<std::size_t>(count), likeliest.size()));
  std::partial_sort(likeliest.begin(), likeliest.begin() + alternatives, likeliest.end(), [&](int a, int b) {
    const float of_a = logits[static_cast<std::size_t>(a)], of_b = logits[static_cast<std::size_t>(b)];
    return of_a > of_b || (of_a == of_b && a < b);
  });
  std::vector<TokenLogprob> result{entry(chosen)};
  std::transform(likeliest.begin(), likeliest.begin() + alternatives, std::back_inserter(result), entry);
  return result;
}

}  // namespace nibble
