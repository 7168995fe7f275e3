#include "runtime/cli/quality.h"

#include <algorithm>
#include <cmath>

namespace nibble::cli {

void Mean::add(double value) {
  ++count_;
  sum_ += value;
  squares_ += value * value;
}

double Mean::value() const { return sum_ / static_cast<double>(count_); }

double Mean::error() const {
  if (count_ < 2) return 0;
  const double variance = squares_ / static_cast<double>(count_) - value() * value();
  return std::sqrt(std::max(0.0, variance) / static_cast<double>(count_ - 1));
}

double Mean::root_mean_square() const { return std::sqrt(squares_ / static_cast<double>(count_)); }

Distribution::Distribution(std::span<const float> logits) : logits_(logits) {
  const auto largest = std::ranges::max_element(logits);
  likeliest_ = static_cast<int>(largest - logits.begin());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - static_cast<double>(*largest));
  log_sum_ = static_cast<double>(*largest) + std::log(sum);
}

double Distribution::log_probability(int token) const {
  return static_cast<double>(logits_[static_cast<std::size_t>(token)]) - log_sum_;
}

double Distribution::probability(int token) const { return std::exp(log_probability(token)); }

double Distribution::divergence(const Distribution& other) const {
  double sum = 0;
  for (std::size_t i = 0; i < logits_.size(); ++i) {
    const double log_p = static_cast<double>(logits_[i]) - log_sum_;
    const double log_q = static_cast<double>(other.logits_[i]) - other.log_sum_;
    sum += std::exp(log_p) * (log_p - log_q);
  }
  return sum;
}

Perplexity perplexity(const Mean& negative_log_likelihood) {
  const double value = std::exp(negative_log_likelihood.value());
  return {value, value * negative_log_likelihood.error()};
}

void Comparison::add(const Distribution& base, const Distribution& changed, int token) {
  base_loss_.add(-base.log_probability(token));
  loss_difference_.add(base.log_probability(token) - changed.log_probability(token));
  divergences_.push_back(base.divergence(changed));
  divergence_.add(divergences_.back());
  same_likeliest_.add(base.likeliest() == changed.likeliest() ? 1 : 0);
  probability_change_.add(changed.probability(token) - base.probability(token));
}

double Comparison::divergence_quantile(double fraction) const {
  std::vector<double> sorted = divergences_;
  const auto rank = static_cast<std::size_t>(std::ceil(fraction * static_cast<double>(sorted.size())));
  const auto nth = sorted.begin() + static_cast<std::ptrdiff_t>(std::max<std::size_t>(1, rank) - 1);
  std::nth_element(sorted.begin(), nth, sorted.end());
  return *nth;
}

}  // namespace nibble::cli
