// Choosing tokens: what transformers' filters leave (tests/golden/sampling.json, made by scripts/golden/models.py), and
// the same token on every machine, to the last place of the line.
#include "kernels/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "nibble/error.h"
#include "tests/kernels/machines.h"
#include "tests/places.h"

namespace nibble {
namespace {

using Json = nlohmann::json;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

TEST(TokenLength, IsTheProbabilityAndFallsWithEveryKey) {
  std::uint64_t before = length_of(0);
  EXPECT_EQ(before, std::uint64_t{1} << 42);
  for (std::uint32_t key = 1; key < kKeys; ++key) {
    const std::uint64_t length = length_of(key);
    const double expected = std::exp(-static_cast<double>(key) / static_cast<double>(kKeysOfOne)) * 0x1p42;
    // Cutting off the fraction costs less than 1; the polynomial, a few roundings of fp32.
    ASSERT_NEAR(static_cast<double>(length), expected, 1.0 + expected * 0x1p-21) << key;
    ASSERT_LE(length, before) << key;
    before = length;
  }
  EXPECT_GE(before, 3U);
}

/// One row of logits for each choice, all in one batch.
std::vector<int> choose(Backend& backend, const Matrix& logits, std::span<const Choice> choices) {
  const int rows = logits.tensor().rows;
  const std::vector<int> ids(static_cast<std::size_t>(rows));
  std::vector<int> outputs(ids.size());
  std::iota(outputs.begin(), outputs.end(), 0);
  const std::vector<Segment> segments = segments_of({rows});
  backend.begin({ids, ids, segments, outputs, choices});
  backend.choose(logits.tensor());
  const std::span<const int> chosen = backend.chosen(0);
  return {chosen.begin(), chosen.end()};
}

/// The same row for every choice.
std::vector<int> choose_from(Backend& backend, DType dtype, const std::vector<float>& row,
                             std::span<const Choice> choices) {
  std::vector<float> rows;
  for (std::size_t i = 0; i < choices.size(); ++i) rows.insert(rows.end(), row.begin(), row.end());
  return choose(backend, {backend, dtype, static_cast<int>(choices.size()), static_cast<int>(row.size()), rows},
                choices);
}

/// The definition word by word: a list of tokens, sorted once for all choices of one temperature and penalty and cut
/// for each.
class Line {
 public:
  Line(std::vector<float> logits, const Choice& choice) {
    std::vector<int> seen(choice.seen.begin(), choice.seen.end());
    std::ranges::sort(seen);
    seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
    for (const int id : seen) {
      float& logit = logits[static_cast<std::size_t>(id)];
      logit = logit < 0 ? logit * choice.repetition_penalty : logit / choice.repetition_penalty;
    }
    const auto largest = std::ranges::max_element(logits, [](float a, float b) { return a < b || (a != a && b == b); });
    if (choice.temperature == 0.0F) {
      tokens_ = {{0, static_cast<int>(largest - logits.begin()), 0}};
      return;
    }
    const float most = *largest / choice.temperature;
    for (std::size_t i = 0; i < logits.size(); ++i) {
      const std::uint32_t key = key_of(logits[i] / choice.temperature, most);
      if (key < kKeys) tokens_.push_back({key, static_cast<int>(i), 0});
    }
    std::ranges::stable_sort(tokens_, {}, &Token::key);
    std::uint64_t length = 0;
    for (Token& token : tokens_) {
      token.begin = length;
      length += length_of(token.key);
    }
  }

  int chosen(const Choice& choice) const {
    if (tokens_.empty()) return 0;
    std::span<const Token> line = tokens_;
    const auto length = [&] { return line.back().begin + length_of(line.back().key); };
    const auto cut = [&](auto&& stays) {
      while (line.size() > 1 && !stays(line.back())) line = line.first(line.size() - 1);
    };
    if (choice.top_k > 0 && static_cast<std::size_t>(choice.top_k) < line.size()) {
      const std::uint32_t last = line[static_cast<std::size_t>(choice.top_k) - 1].key;
      cut([&](const Token& token) { return token.key <= last; });
    }
    if (choice.top_p < 1) {
      const std::uint64_t part = part_of(length(), Draw(choice).top_p);
      cut([&](const Token& token) { return token.begin < part; });
    }
    if (choice.min_p > 0) {
      const double distance = -std::log(static_cast<double>(choice.min_p)) * static_cast<double>(kKeysOfOne);
      cut([&](const Token& token) { return static_cast<double>(token.key) <= distance; });
    }
    const std::uint64_t place = part_of(length(), choice.random);
    const auto after = std::ranges::upper_bound(line, place, {}, &Token::begin);
    return std::prev(after)->id;
  }

 private:
  struct Token {
    std::uint32_t key;
    int id;
    std::uint64_t begin;
  };
  std::vector<Token> tokens_;
};

class SamplingTest : public VerbTest {
 protected:
  std::vector<float> rounded_values(std::vector<float> values) const {
    with_dtype(dtype(), [&](auto tag) {
      for (float& value : values) value = rounded<typename decltype(tag)::type>(value);
    });
    return values;
  }

  /// Expects what the reference chooses from the same row, in batches of several sizes: on a GPU more blocks share a
  /// row where there are fewer. Choices of one penalty have seen the same.
  void expect_chosen(Backend& backend, const std::vector<float>& row, std::span<const Choice> choices) const {
    const std::vector<float> stored = rounded_values(row);
    const std::vector<int> chosen = choose_from(backend, dtype(), row, choices);
    std::vector<int> in_batches;
    for (std::size_t size = 5; in_batches.size() < choices.size(); size *= 2) {
      const auto batch = choices.subspan(in_batches.size(), std::min(size, choices.size() - in_batches.size()));
      const std::vector<int> of_batch = choose_from(backend, dtype(), row, batch);
      in_batches.insert(in_batches.end(), of_batch.begin(), of_batch.end());
    }
    std::map<std::pair<float, float>, Line> lines;
    for (std::size_t i = 0; i < choices.size(); ++i) {
      const Choice& c = choices[i];
      const Line& line = lines.try_emplace({c.temperature, c.repetition_penalty}, stored, c).first->second;
      const std::vector<int> both = {chosen[i], in_batches[i]};
      EXPECT_EQ(both, std::vector<int>(2, line.chosen(c)))
          << row.size() << " logits, temperature " << c.temperature << ", top_k " << c.top_k << ", top_p " << c.top_p
          << ", min_p " << c.min_p << ", penalty " << c.repetition_penalty << ", random " << c.random;
    }
  }
};

/// Every filter, and several at once.
std::vector<Choice> filters() {
  return {{.temperature = 1},
          {.temperature = 0.7F},
          {.temperature = 1, .top_k = 1},
          {.temperature = 1.3F, .top_k = 50},
          {.temperature = 1, .top_k = 40000},
          {.temperature = 1, .top_p = 0},
          {.temperature = 1, .top_p = 0.3F},
          {.temperature = 1.5F, .top_p = 0.95F},
          {.temperature = 1, .min_p = 0.1F},
          {.temperature = 1, .min_p = 1},
          {.temperature = 0.9F, .top_k = 40, .top_p = 0.9F},
          {.temperature = 1.2F, .top_p = 0.99F, .min_p = 0.01F},
          {.temperature = 1.2F, .top_k = 200, .top_p = 0.9F, .min_p = 0.002F},
          {.temperature = 0}};
}

TEST_P(SamplingTest, WithoutTemperatureTakesTheLargestOfRowsOfAnyWidth) {
  const auto backend = machine().backend(2);
  const std::vector<float> random = random_values(40 * 50272, 1);
  for (const int cols : {1, 2, 7, 31, 33, 255, 1024, 1025, 4099, 50272, 50265}) {
    for (const int rows : {1, 3, 16, 40}) {
      const Matrix x(*backend, dtype(), rows, cols, std::span(random).first(static_cast<std::size_t>(rows * cols)));
      const std::vector<float> values = x.values();
      std::vector<int> largest;
      for (auto row = values.begin(); row != values.end(); row += cols) {
        largest.push_back(static_cast<int>(std::max_element(row, row + cols) - row));
      }
      EXPECT_EQ(choose(*backend, x, std::vector<Choice>(largest.size())), largest) << rows << " x " << cols;
    }
  }
}

TEST_P(SamplingTest, WithoutTemperatureTakesTheLowestOfEqualOnes) {
  const auto backend = machine().backend(2);
  constexpr int kCols = 5003;
  for (const float background : {-1.0F, 0.0F, -kInfinity}) {
    for (const std::vector<std::size_t>& places :
         {std::vector<std::size_t>{}, {5002}, {0, 5002}, {4097, 1025, 4999}, {31, 32}, {2047, 2048, 2049}}) {
      std::vector<float> values(kCols, background);
      for (const std::size_t place : places) values[place] = 1.0F;
      const int lowest = places.empty() ? 0 : static_cast<int>(std::ranges::min(places));
      EXPECT_EQ(choose_from(*backend, dtype(), values, std::vector<Choice>(1)), std::vector<int>{lowest});
    }
  }
}

TEST_P(SamplingTest, ChoosesWhatTheDefinitionSays) {
  const auto backend = machine().backend(2);
  for (const int cols : {1, 2, 7, 33, 1000, 4099, 50272}) {
    auto seed = static_cast<std::uint32_t>(cols);
    for (const float deviation : {3.0F, 0.3F, 40.0F}) {
      if (cols > 5000 && deviation != 3.0F) continue;
      const std::vector<float> row = random_values(static_cast<std::size_t>(cols), ++seed, deviation);
      std::mt19937_64 random(seed);
      std::vector<int> seen(40);
      for (int& id : seen) id = static_cast<int>(random() % static_cast<unsigned>(cols));
      std::vector<Choice> choices;
      for (Choice choice : filters()) {
        for (const std::uint64_t bits : {std::uint64_t{0}, ~std::uint64_t{0}, std::uint64_t{random()}}) {
          choice.random = bits;
          choice.repetition_penalty = 1;
          choices.push_back(choice);
          choice.repetition_penalty = 1.3F;
          choice.seen = seen;
          choices.push_back(choice);
        }
      }
      expect_chosen(*backend, row, choices);
    }
  }
}

TEST_P(SamplingTest, OfRowsThatAreHardlyDistributions) {
  const auto backend = machine().backend(2);
  constexpr std::size_t kCols = 6003;
  std::vector<std::vector<float>> rows = {std::vector<float>(kCols, 0.75F),     std::vector<float>(kCols, -0.0F),
                                          std::vector<float>(kCols, kNaN),      std::vector<float>(kCols, -kInfinity),
                                          std::vector<float>(kCols, kInfinity), random_values(kCols, 1)};
  for (std::size_t i = 0; i < kCols; i += 3) rows[1][i] = 0.0F;
  rows.push_back(rows[5]);
  for (const std::size_t i : {0UL, 17UL, 5000UL}) rows.back()[i] = kNaN;
  rows.push_back(rows[5]);
  for (const std::size_t i : {16UL, 4097UL, 6002UL}) rows.back()[i] = 30.0F;
  rows.push_back(std::vector<float>(kCols, -kInfinity));
  rows.back()[6001] = kNaN;
  rows.back()[6002] = -3.0F;
  rows.push_back(random_values(kCols, 2));
  for (float& value : rows.back()) value = std::round(value);
  // Three values whose keys have the same first half at a temperature of 1.
  rows.push_back(rows[0]);
  for (std::size_t i = 0; i < kCols; ++i) rows.back()[i] -= static_cast<float>(i % 3) * 0x1p-8F;
  for (const std::vector<float>& row : rows) {
    std::vector<Choice> choices;
    for (Choice choice : filters()) {
      for (const std::uint64_t bits : {0x0ULL, 0x123456789abcdefULL, 0x8000000000000000ULL, ~0ULL}) {
        choice.random = bits;
        choices.push_back(choice);
      }
    }
    expect_chosen(*backend, row, choices);
  }
}

TEST_P(SamplingTest, DoesNotDependOnTheRowsBesideIt) {
  const auto backend = machine().backend(3);
  constexpr int kCols = 5000;
  std::vector<Choice> choices;
  std::mt19937_64 random(1);
  std::vector<int> seen(100);
  for (int& id : seen) id = static_cast<int>(random() % kCols);
  for (int i = 0; i < 70; ++i) {
    choices.push_back(filters()[static_cast<std::size_t>(i) % filters().size()]);
    choices.back().random = random();
    if (i % 3 == 0) choices.back().repetition_penalty = 1.1F, choices.back().seen = seen;
  }
  const auto count = static_cast<int>(choices.size());
  const Matrix logits(*backend, dtype(), count, kCols, random_values(choices.size() * kCols, 5, 2.0F));
  const std::vector<float> values = logits.values();
  const std::vector<int> together = choose(*backend, logits, choices);
  for (int i = 0; i < count; ++i) {
    const auto first = values.begin() + static_cast<std::ptrdiff_t>(i) * kCols;
    const std::size_t place = static_cast<std::size_t>(i);
    EXPECT_EQ(choose_from(*backend, dtype(), {first, first + kCols}, {&choices[place], 1}).front(), together[place]);
  }
}

TEST_P(SamplingTest, RefusesChoicesThatCannotBeMade) {
  const auto backend = machine().backend(1);
  const auto choose_one = [&](Choice choice, int cols = 4) {
    return [&backend, choice, cols, type = dtype()] {
      choose(*backend, Matrix(*backend, type, 1, cols), {&choice, 1});
    };
  };
  const std::vector<int> seen = {1, 4};
  const auto message = [](auto&& f) {
    try {
      f();
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_EQ(message(choose_one({.seen = seen})), "choose: expected seen ids from 0 to 3, found 4");
  EXPECT_EQ(message(choose_one({}, 0)),
            "choose: expected a row of at least 1 logit for each of the batch's 1 choices, "
            "found [1, 0]");
  EXPECT_NE(message(choose_one({.temperature = -1})).find("begin: expected temperature from 0"), std::string::npos);
  EXPECT_NE(message(choose_one({.temperature = kNaN})).find("begin: expected temperature"), std::string::npos);
  EXPECT_NE(message(choose_one({.top_k = -1})).find("begin: expected top_k"), std::string::npos);
  EXPECT_NE(message(choose_one({.top_p = 1.5F})).find("begin: expected top_p"), std::string::npos);
  EXPECT_NE(message(choose_one({.min_p = -0.5F})).find("begin: expected min_p"), std::string::npos);
  EXPECT_NE(message(choose_one({.repetition_penalty = 0})).find("begin: expected repetition_penalty"),
            std::string::npos);
  const std::vector<Choice> two(2);
  EXPECT_EQ(message([&] { choose(*backend, Matrix(*backend, dtype(), 3, 4), two); }),
            "begin: expected 3 choices, one an output, found 2");
}

INSTANTIATE_TEST_SUITE_P(All, SamplingTest, machines_and_dtypes(), verb_test_name);

class GoldenSamplingTest : public testing::TestWithParam<Machine> {};

TEST_P(GoldenSamplingTest, LeavesTheProbabilitiesThatTransformersLeaves) {
  const auto backend = GetParam().backend(2);
  const Json golden = Json::parse(std::ifstream(fixtures_dir() + "/sampling.json"));
  const auto floats = [](const Json& values) {
    std::vector<float> result;
    for (const Json& value : values) result.push_back(value.is_null() ? -kInfinity : value.get<float>());
    return result;
  };
  int compared = 0;
  for (const Json& entry : golden["cases"]) {
    const Json& options = entry["options"];
    if (options["typical_p"] != 1.0) continue;  // not an option of nibble
    const auto history = entry["history"].get<std::vector<int>>();
    const Choice choice{.temperature = options["temperature"],
                        .top_k = options["top_k"],
                        .top_p = options["top_p"],
                        .min_p = options["min_p"].is_null() ? 0.0F : options["min_p"].get<float>(),
                        .repetition_penalty = options["repetition_penalty"],
                        .seen = history};
    const std::vector<float> expected = floats(entry["log_probabilities"]);
    std::vector<int> line;
    for (int id = 0; id < static_cast<int>(expected.size()); ++id) {
      if (expected[static_cast<std::size_t>(id)] != -kInfinity) line.push_back(id);
    }
    const auto log_probability = [&](int id) { return expected[static_cast<std::size_t>(id)]; };
    std::ranges::stable_sort(line, std::greater<>(), log_probability);
    // Where each token begins and ends; cumulative probabilities of fp32 logits are known to some 1e-5.
    constexpr double kUnsure = 2e-5;
    std::vector<Choice> choices;
    std::vector<int> wanted;
    double begin = 0;
    for (const int id : line) {
      const double end = begin + std::exp(static_cast<double>(log_probability(id)));
      if (end - begin > 2 * kUnsure) {
        for (const double place : {begin == 0 ? 0 : begin + kUnsure, end - kUnsure}) {
          choices.push_back(choice);
          choices.back().random = static_cast<std::uint64_t>(place * 0x1p64);
          wanted.push_back(id);
        }
      }
      begin = end;
    }
    EXPECT_NEAR(begin, 1.0, 1e-5);
    // The end of the line is that of the last token that is not 1e-12 times as likely as the first.
    const float reach = static_cast<float>(kReach);
    std::erase_if(line,
                  [&, most = log_probability(line.front())](int id) { return log_probability(id) < most - reach; });
    choices.push_back(choice);
    choices.back().random = ~std::uint64_t{0};
    wanted.push_back(line.back());
    const std::vector<float> logits = floats(golden["logits"][entry["logits"].get<std::string>()]);
    EXPECT_EQ(choose_from(*backend, DType::kF32, logits, choices), wanted) << entry["logits"] << options;
    ++compared;
  }
  EXPECT_GT(compared, 80);
}

INSTANTIATE_TEST_SUITE_P(All, GoldenSamplingTest, testing::ValuesIn(machines()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace nibble
