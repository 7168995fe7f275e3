// What comes before and behind the products of linear layers, and several of them at once.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <numeric>
#include <tuple>

#include "tests/kernels/machines.h"

namespace nibble {
namespace {

/// The epilogue's steps in fp32, each rounded, on what linear gives without them.
float step_by_step(DType dtype, float value, float scale, float (*activation)(float), float residual) {
  return with_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    return rounded<T>(rounded<T>(activation(rounded<T>(value * scale))) + residual);
  });
}

struct ActivationCase {
  Activation activation;
  float (*reference)(float);
};

const ActivationCase kActivations[] = {
    {Activation::kIdentity, [](float x) { return x; }},
    {Activation::kRelu, [](float x) { return std::max(x, 0.0F); }},
    {Activation::kGelu, [](float x) { return 0.5F * x * (1 + std::erf(x * std::sqrt(0.5F))); }},
    {Activation::kGeluTanh,
     [](float x) {
       return 0.5F * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi_v<float>) * (x + 0.044715F * x * x * x)));
     }},
    {Activation::kSilu, [](float x) { return x / (1 + std::exp(-x)); }},
    {Activation::kQuickGelu, [](float x) { return x / (1 + std::exp(-1.702F * x)); }},
    {Activation::kRelu2, [](float x) { return std::max(x, 0.0F) * std::max(x, 0.0F); }},
    {Activation::kRelu6, [](float x) { return std::clamp(x, 0.0F, 6.0F); }},
};

class EpilogueTest : public VerbTest {};

TEST_P(EpilogueTest, ScalesActivatesAndAddsRoundingEachTime) {
  const auto backend = machine().backend(2);
  for (const auto& [m, n, k] :
       {std::tuple{6, 53, 40}, std::tuple{6, 48, 64}, std::tuple{40, 48, 64}, std::tuple{40, 2048, 2048}}) {
    if (n > 2000 && machine().device == Device::kCpu) continue;
    const Matrix bias(*backend, dtype(), 1, n, 22);
    const Linear linear{backend->prepare(random_int8<Int8Row>(n, k, 21)), bias.buffer()};
    const Matrix x(*backend, dtype(), m, k, 23);
    const Matrix plain(*backend, dtype(), m, n);
    begin(*backend, {m});
    project(*backend, x.tensor(), {linear, plain.tensor()});
    const std::vector<float> before = plain.values();
    for (const ActivationCase& each : kActivations) {
      const Matrix added(*backend, dtype(), m, n, 24), y(*backend, dtype(), m, n);
      const std::vector<float> residual = added.values();
      const Epilogue epilogue{.scale = 1.25F, .activation = each.activation, .residual = added.tensor()};
      project(*backend, x.tensor(), {linear, y.tensor(), epilogue});
      const std::vector<float> found = y.values();
      for (std::size_t i = 0; i < found.size(); ++i) {
        const float expected = step_by_step(dtype(), before[i], 1.25F, each.reference, residual[i]);
        const double slack =
            4 * epsilon(dtype()) * (std::fabs(expected) + std::fabs(residual[i]) + 2 * std::fabs(before[i]));
        ASSERT_NEAR(found[i], expected, slack)
            << "activation " << static_cast<int>(each.activation) << " element " << i << " of " << m << " rows";
      }
    }
  }
}

class ProjectTest : public VerbTest {
 protected:
  /// Linears of one x, with and without biases, of several widths and layouts, each with an epilogue of its own.
  struct Linears {
    std::vector<Matrix> biases;
    std::vector<Linear> linears;
    std::vector<Epilogue> epilogues;
  };

  static std::uint32_t seed_of(std::size_t linear) { return static_cast<std::uint32_t>(20 + linear); }

  Linears make_linears(Backend& backend, int k, std::span<const WeightCase> cases, std::span<const int> widths) const {
    Linears made;
    for (std::size_t i = 0; i < cases.size(); ++i) {
      made.biases.emplace_back(backend, dtype(), 1, widths[i], static_cast<std::uint32_t>(i));
      made.linears.push_back(
          {backend.prepare(cases[i].make(widths[i], k, seed_of(i))), i == 1 ? Buffer() : made.biases.back().buffer()});
      made.epilogues.push_back(
          {.scale = i == 0 ? 0.125F : 1.0F, .activation = i == 2 ? Activation::kRelu : Activation::kIdentity});
    }
    return made;
  }

  std::vector<Matrix> make_results(Backend& backend, int m, const Linears& made) const {
    std::vector<Matrix> results;
    for (const Linear& linear : made.linears) results.emplace_back(backend, dtype(), m, rows(linear.weight));
    return results;
  }

  /// What a result of row r of x may differ by where sums have another order and factors are rounded in another way:
  /// twice what each may be off, by Cauchy's inequality.
  std::vector<double> slack_of_rows(const Matrix& x, const Weight& weight) const {
    const std::vector<float> values = decoded(weight);
    const std::vector<float> factors = x.values();
    const auto k = static_cast<std::size_t>(cols(weight));
    double longest = 0, errors = 0;
    for (std::size_t i = 0; i < values.size(); i += k) {
      double square = 0, error = 0;
      for (std::size_t j = i; j < i + k; ++j) {
        square += std::pow(values[j], 2), error += std::pow(machine().weight_error(dtype(), values[j]), 2);
      }
      longest = std::max(longest, std::sqrt(square)), errors = std::max(errors, std::sqrt(error));
    }
    std::vector<double> slack;
    for (std::size_t i = 0; i < factors.size(); i += k) {
      double square = 0;
      for (std::size_t j = i; j < i + k; ++j) square += std::pow(factors[j], 2);
      slack.push_back(2 * std::sqrt(square) * (errors + longest * machine().sum_error(k)));
    }
    return slack;
  }

  static std::vector<Projection> projections(const Linears& made, const std::vector<Matrix>& results) {
    std::vector<Projection> projections;
    for (std::size_t i = 0; i < results.size(); ++i) {
      projections.push_back({made.linears[i], results[i].tensor(), made.epilogues[i]});
    }
    return projections;
  }
};

struct ProjectCase {
  std::array<WeightCase, 4> weights;
  std::array<int, 4> widths;
  std::size_t count;
  int k;
};

const ProjectCase kProjectCases[] = {
    {{kWeightCases[5], kWeightCases[5], kWeightCases[5]}, {64, 64, 64}, 3, 128},
    {{kWeightCases[3], kWeightCases[3], kWeightCases[3]}, {48, 16, 32}, 3, 64},
    {{kWeightCases[1], kWeightCases[1]}, {33, 70}, 2, 100},
    {{kWeightCases[4], kWeightCases[0], kWeightCases[6]}, {64, 64, 64}, 3, 128},  // of several layouts
    {{kWeightCases[5], kWeightCases[5], kWeightCases[5], kWeightCases[5]}, {64, 37, 64, 128}, 4, 64},
    {{kWeightCases[5], kWeightCases[5], kWeightCases[5]}, {2048, 2048, 4096}, 3, 2048},
    {{kWeightCases[4], kWeightCases[4], kWeightCases[4], kWeightCases[4]}, {64, 48, 37, 64}, 4, 64},
};

const std::vector<int> kProjectBatches[] = {
    {1}, {1, 1, 1}, {16}, {17}, {40}, {2, 30, 1}, {1, 1, 1, 1, 1, 1, 1, 1, 1}, std::vector<int>(35, 1)};

TEST_P(ProjectTest, OfSeveralLinearsIsEachOfThemAlone) {
  const auto backend = machine().backend(2);
  for (const ProjectCase& each : kProjectCases) {
    if (each.k > 2000 && machine().device == Device::kCpu) continue;
    const Linears made = make_linears(*backend, each.k, std::span(each.weights).first(each.count), each.widths);
    for (const std::vector<int>& lengths : kProjectBatches) {
      const int m = std::accumulate(lengths.begin(), lengths.end(), 0);
      const Matrix x(*backend, dtype(), m, each.k, 9);
      const std::vector<Matrix> together = make_results(*backend, m, made), alone = make_results(*backend, m, made);
      begin(*backend, segments_of(lengths));
      backend->project(x.tensor(), projections(made, together));
      for (const Projection& projection : projections(made, alone)) project(*backend, x.tensor(), projection);
      const bool is_exact = machine().device == Device::kCpu || std::ranges::max(lengths) <= 16;
      for (std::size_t i = 0; i < alone.size(); ++i) {
        SCOPED_TRACE(testing::Message() << "linear " << i << " of " << each.count << ", m " << m);
        const std::vector<float> found = together[i].values(), expected = alone[i].values();
        if (is_exact) {
          EXPECT_EQ(found, expected);
          continue;
        }
        const std::vector<double> slack = slack_of_rows(x, each.weights[i].make(each.widths[i], each.k, seed_of(i)));
        for (std::size_t j = 0; j < found.size(); ++j) {
          const double of_sum = slack[j / index(each.widths[i])] * made.epilogues[i].scale;
          ASSERT_NEAR(found[j], expected[j], of_sum + 4 * rounding(dtype(), expected[j])) << "element " << j;
        }
      }
    }
  }
}

TEST_P(ProjectTest, GivesASegmentTheSameBitsInAnyBatch) {
  if (machine().device == Device::kCpu) return;
  // On its way rows of several segments are more than clusters that divide a tile have room for at once.
  constexpr int kLengths[] = {100, 128, 17, 60}, kWidth = 4080, kColumns = 2816;
  constexpr int kRows = std::accumulate(std::begin(kLengths), std::end(kLengths), 0);
  const auto backend = machine().backend(2);
  const std::array<WeightCase, 1> cases = {kWeightCases[5]};
  const std::array<int, 1> widths = {kWidth};
  const Linears made = make_linears(*backend, kColumns, cases, widths);
  const Matrix x(*backend, dtype(), kRows, kColumns, 9);
  const Matrix alone(*backend, dtype(), kRows, kWidth), together(*backend, dtype(), kRows, kWidth);
  int first = 0;
  for (const int rows : kLengths) {
    begin(*backend, {rows});
    project(*backend, x.rows(first, rows), {made.linears[0], alone.rows(first, rows)});
    first += rows;
  }
  begin(*backend, segments_of({std::begin(kLengths), std::end(kLengths)}));
  project(*backend, x.tensor(), {made.linears[0], together.tensor()});
  EXPECT_EQ(together.values(), alone.values());
}

TEST_P(ProjectTest, OfANormIsThatOfTheNormedRows) {
  const auto backend = machine().backend(2);
  for (const ProjectCase& each : kProjectCases) {
    if (each.k > 2000 && machine().device == Device::kCpu) continue;
    const Linears made = make_linears(*backend, each.k, std::span(each.weights).first(each.count), each.widths);
    const Matrix weight(*backend, dtype(), 1, each.k, 30), bias(*backend, dtype(), 1, each.k, 31);
    for (const LayerNorm& norm : {LayerNorm{weight.buffer(), bias.buffer(), each.k}, LayerNorm{{}, {}, each.k}}) {
      for (const std::vector<int>& lengths : kProjectBatches) {
        const int m = std::accumulate(lengths.begin(), lengths.end(), 0);
        const Matrix x(*backend, dtype(), m, each.k, 9), normed(*backend, dtype(), m, each.k);
        const Matrix reference(*backend, dtype(), m, each.k);
        const std::vector<Matrix> found = make_results(*backend, m, made), expected = make_results(*backend, m, made);
        begin(*backend, segments_of(lengths));
        backend->project(norm, x.tensor(), normed.tensor(), projections(made, found));
        backend->project(normed.tensor(), projections(made, expected));
        for (std::size_t i = 0; i < found.size(); ++i) {
          EXPECT_EQ(found[i].values(), expected[i].values()) << "linear " << i << " of " << each.count << ", m " << m;
        }
        // norm_test compares one with fp64. A fused one may add up in another order: a few roundings apart.
        normalise(*backend, norm, x.tensor(), reference.tensor());
        const std::vector<float> ours = normed.values(), theirs = reference.values();
        for (std::size_t i = 0; i < ours.size(); ++i) {
          ASSERT_NEAR(ours[i], theirs[i], 2 * epsilon(dtype()) * std::fabs(theirs[i]) + 0x1p-20) << "m " << m;
        }
      }
    }
  }
}

TEST_P(ProjectTest, GivesANormedRowTheBitsOfOne) {
  if (machine().device == Device::kCpu) return;
  const auto backend = machine().backend(2);
  const std::array<WeightCase, 1> cases = {kWeightCases[5]};
  const std::array<int, 1> widths = {48};
  constexpr int kRows = 40;
  for (const int k : {768, 1024, 4096, 5120, 12288}) {
    const Linears made = make_linears(*backend, k, cases, widths);
    const Matrix weight(*backend, dtype(), 1, k, 30), bias(*backend, dtype(), 1, k, 31);
    for (const LayerNorm& norm : {LayerNorm{weight.buffer(), bias.buffer(), k}, LayerNorm{{}, {}, k}}) {
      const Matrix x(*backend, dtype(), kRows, k, 9), normed(*backend, dtype(), kRows, k);
      const Matrix alone(*backend, dtype(), kRows, widths[0]), together(*backend, dtype(), kRows, widths[0]);
      const auto project_rows = [&](int first, int rows, const Matrix& y) {
        begin(*backend, segments_of(std::vector<int>(static_cast<std::size_t>(rows), 1)));
        const std::vector<Projection> projections = {{made.linears[0], y.rows(first, rows)}};
        backend->project(norm, x.rows(first, rows), normed.rows(first, rows), projections);
      };
      for (int row = 0; row < kRows; ++row) project_rows(row, 1, alone);
      const std::vector<float> expected = alone.values(), expected_normed = normed.values();
      for (const int m : {2, 5, 8, 11, 16, 17, kRows}) {
        project_rows(0, m, together);
        const std::vector<float> found = together.values(), found_normed = normed.values();
        EXPECT_TRUE(std::equal(expected.begin(), expected.begin() + std::ptrdiff_t{m} * widths[0], found.begin()))
            << "m " << m << " k " << k;
        EXPECT_EQ(found_normed, expected_normed) << "m " << m << " k " << k;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, EpilogueTest, machines_and_dtypes(), verb_test_name);
INSTANTIATE_TEST_SUITE_P(All, ProjectTest, machines_and_dtypes(), verb_test_name);

}  // namespace
}  // namespace nibble
