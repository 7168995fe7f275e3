#include "runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "nibble/error.h"

namespace nibble {
namespace {

bool likelier(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

/// Brings the `count` likeliest to the front, in order.
void sort_front(std::vector<Candidate>& all, std::size_t count) {
  if (count < all.size()) {
    std::nth_element(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(count), all.end(), likelier);
  }
  std::sort(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(std::min(count, all.size())), likelier);
}

float largest_logit(std::span<const Candidate> all) {
  return std::max_element(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.logit < b.logit; })
      ->logit;
}

double sum_of_exponentials(std::span<const Candidate> all, float largest) {
  return std::accumulate(all.begin(), all.end(), 0.0, [&](double sum, const Candidate& c) {
    return sum + std::exp(static_cast<double>(c.logit) - static_cast<double>(largest));
  });
}

void keep_top_k(std::vector<Candidate>& all, int top_k) {
  const auto count = static_cast<std::size_t>(top_k);
  if (top_k == 0 || count >= all.size()) return;
  std::nth_element(all.begin(), all.begin() + (top_k - 1), all.end(), likelier);
  const float threshold = all[count - 1].logit;
  std::erase_if(all, [&](const Candidate& c) { return c.logit < threshold; });
}

/// Keeps the likeliest until they hold `top_p` of the probability: a token stays while those before it hold less. Sorts
/// no more than it needs to.
void keep_top_p(std::vector<Candidate>& all, float top_p) {
  if (top_p >= 1.0F) return;
  const float largest = largest_logit(all);
  const double total = sum_of_exponentials(all, largest);
  for (std::size_t sorted = std::min<std::size_t>(256, all.size());; sorted = std::min(4 * sorted, all.size())) {
    sort_front(all, sorted);
    double before = 0;
    for (std::size_t i = 0; i < sorted; ++i) {
      if (i > 0 && before >= static_cast<double>(top_p) * total) {
        all.resize(i);
        return;
      }
      before += std::exp(static_cast<double>(all[i].logit) - static_cast<double>(largest));
    }
    if (sorted == all.size()) return;
  }
}

void keep_min_p(std::vector<Candidate>& all, float min_p) {
  if (min_p <= 0.0F) return;
  // p < min_p * p_max, in logarithms; the likeliest always stays.
  const float threshold = largest_logit(all) + std::log(min_p);
  std::erase_if(all, [&](const Candidate& c) { return c.logit < threshold; });
}

void require(bool holds, const char* option, const char* expected, double found) {
  if (holds) return;
  std::string number = std::to_string(found);
  throw Error(ErrorKind::kInvalidArgument, std::string(option) + ": expected " + expected + ", found " + number);
}

}  // namespace

void check_options(const GenerateOptions& o) {
  require(o.max_tokens >= 1, "max_tokens", "at least 1", o.max_tokens);
  require(std::isfinite(o.temperature) && o.temperature >= 0, "temperature", "a number of at least 0", o.temperature);
  require(o.top_k >= 0, "top_k", "at least 0", o.top_k);
  require(o.top_p >= 0 && o.top_p <= 1, "top_p", "a number from 0 to 1", o.top_p);
  require(o.min_p >= 0 && o.min_p <= 1, "min_p", "a number from 0 to 1", o.min_p);
  require(std::isfinite(o.repetition_penalty) && o.repetition_penalty > 0, "repetition_penalty", "a number above 0",
          o.repetition_penalty);
  require(o.logprobs >= -1, "logprobs", "at least -1", o.logprobs);
  if (std::ranges::any_of(o.stop, &std::string::empty)) {
    throw Error(ErrorKind::kInvalidArgument, "stop: expected strings of at least one character, found an empty one");
  }
}

void penalize_repetition(std::span<float> logits, std::vector<int>& history, float penalty) {
  std::ranges::sort(history);
  history.erase(std::unique(history.begin(), history.end()), history.end());
  for (const int id : history) {
    float& logit = logits[static_cast<std::size_t>(id)];
    logit = logit < 0 ? logit * penalty : logit / penalty;
  }
}

void find_candidates(std::span<const float> logits, const GenerateOptions& options, std::vector<Candidate>& left) {
  left.resize(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i) left[i] = {static_cast<int>(i), logits[i] / options.temperature};
  keep_top_k(left, options.top_k);
  keep_top_p(left, options.top_p);
  keep_min_p(left, options.min_p);
}

std::vector<TokenLogprob> logprobs(std::span<const float> logits, int chosen, int count) {
  std::vector<Candidate> all(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i) all[i] = {static_cast<int>(i), logits[i]};
  const float largest = largest_logit(all);
  const double normalizer = static_cast<double>(largest) + std::log(sum_of_exponentials(all, largest));
  const auto logprob = [&](float logit) { return static_cast<float>(static_cast<double>(logit) - normalizer); };

  std::vector<TokenLogprob> result{{chosen, logprob(logits[static_cast<std::size_t>(chosen)])}};
  const std::size_t alternatives = std::min(static_cast<std::size_t>(count), all.size());
  sort_front(all, alternatives);
  for (std::size_t i = 0; i < alternatives; ++i) result.push_back({all[i].id, logprob(all[i].logit)});
  return result;
}

Sampler::Sampler(const GenerateOptions& options, int sequence, std::size_t most_tokens) : options_(options) {
  if (options.repetition_penalty != 1.0F) seen_.reserve(most_tokens);
  std::seed_seq seed{static_cast<std::uint32_t>(options.seed), static_cast<std::uint32_t>(options.seed >> 32),
                     static_cast<std::uint32_t>(sequence)};
  random_.seed(seed);
}

int Sampler::sample(std::span<float> logits, std::span<const int> history) {
  if (options_.repetition_penalty != 1.0F) {
    seen_.assign(history.begin(), history.end());
    penalize_repetition(logits, seen_, options_.repetition_penalty);
  }
  if (options_.temperature == 0.0F) {
    return static_cast<int>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
  find_candidates(logits, options_, left_);
  const float largest = largest_logit(left_);
  const double uniform = static_cast<double>(random_() >> 11) * 0x1p-53;  // [0, 1), the same on every platform
  double remaining = uniform * sum_of_exponentials(left_, largest);
  for (const Candidate& c : left_) {
    remaining -= std::exp(static_cast<double>(c.logit) - static_cast<double>(largest));
    if (remaining < 0) return c.id;
  }
  return left_.back().id;
}

}  // namespace nibble
