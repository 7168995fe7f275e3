// How well a model predicts a text, and how far its predictions are from another's: the arithmetic, without any model.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace nibble::cli {

/// The mean of values that come one by one.
class Mean {
 public:
  void add(double value);

  std::size_t count() const { return count_; }
  double value() const;
  /// Standard error of the mean: sqrt(variance / (count - 1)); 0 of one value.
  double error() const;
  double root_mean_square() const;

 private:
  std::size_t count_ = 0;
  double sum_ = 0;
  double squares_ = 0;
};

/// A row of logits as a distribution over tokens. Refers to the row.
class Distribution {
 public:
  explicit Distribution(std::span<const float> logits);

  /// Natural logarithm.
  double log_probability(int token) const;
  double probability(int token) const;
  int likeliest() const { return likeliest_; }
  /// Kullback-Leibler divergence D(this || other) = sum p (log p - log q), in nats.
  double divergence(const Distribution& other) const;

 private:
  std::span<const float> logits_;
  int likeliest_;
  double log_sum_;  ///< of the exponentials
};

/// Perplexity is exp of the mean negative log-likelihood; its error to first order.
struct Perplexity {
  double value, error;
};
Perplexity perplexity(const Mean& negative_log_likelihood);

/// What changes from one model's predictions to another's, over the tokens of a text.
class Comparison {
 public:
  void add(const Distribution& base, const Distribution& changed, int token);

  const Mean& base_loss() const { return base_loss_; }
  const Mean& loss_difference() const { return loss_difference_; }  ///< changed minus base
  const Mean& divergence() const { return divergence_; }
  const Mean& same_likeliest() const { return same_likeliest_; }  ///< 1 where both find the same token likeliest
  const Mean& probability_change() const { return probability_change_; }  ///< of the token that comes
  /// The divergence that a share `fraction` of the tokens does not exceed (nearest rank).
  double divergence_quantile(double fraction) const;

 private:
  Mean base_loss_, loss_difference_, divergence_, same_likeliest_, probability_change_;
  std::vector<double> divergences_;
};

}  // namespace nibble::cli
