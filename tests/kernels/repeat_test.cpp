// A step of a small decoder under `repeat`: the same bits as the same verbs called every time.
#include <gtest/gtest.h>

#include "tests/kernels/machines.h"

namespace nibble {
namespace {

constexpr int kVocabulary = 100, kWidth = 64, kHeads = 2, kContext = 64, kOffset = 2;

/// One layer without a feed-forward part, and what it works in. The tokens it chooses go round.
class Decoder {
 public:
  Decoder(Backend& backend, DType dtype, int rows, const WeightCase& weights)
      : backend_(backend),
        tokens_(backend.prepare(random_dense<float>(kVocabulary, kWidth, 1))),
        positions_(backend.prepare(random_dense<float>(kContext + kOffset, kWidth, 2))),
        cache_(make_cache(backend, dtype, 1, 3, kHeads, kContext, kWidth / kHeads)),
        memory_(backend, dtype, 7 * rows, kWidth),
        logits_(backend, dtype, rows, kVocabulary) {
    for (std::uint32_t i = 0; i < 4; ++i)
      linears_.push_back({backend.prepare(weights.make(kWidth, kWidth, 3 + i)), {}});
    head_ = {backend.prepare(weights.make(kVocabulary, kWidth, 7)), {}};
  }

  /// The verbs of a step of `rows` rows.
  void step(int rows) {
    const auto place = [&](int i) { return memory_.rows(i * rows, rows); };
    const Tensor x = place(0), normed = place(1), q = place(2), k = place(3), v = place(4), attended = place(5);
    const Tensor last = place(6);
    backend_.embed(tokens_, x);
    backend_.add_positions(positions_, kOffset, x);
    const std::vector<Projection> qkv = {{linears_[0], q, {.scale = 0.25F}}, {linears_[1], k}, {linears_[2], v}};
    backend_.project({{}, {}, kWidth}, x, normed, qkv);
    backend_.attend(q, k, v, 0, cache_, attended);
    project(backend_, attended, {linears_[3], x, {.residual = x}});
    backend_.gather_outputs(x, last);
    backend_.linear(head_, last, logits_.rows(0, rows));
    backend_.choose(logits_.rows(0, rows));
  }

  std::vector<float> logits(int rows) const {
    std::vector<float> values(static_cast<std::size_t>(rows * kVocabulary));
    backend_.copy_to_host(logits_.rows(0, rows), values);
    return values;
  }

 private:
  Backend& backend_;
  Weight tokens_, positions_;
  std::vector<Linear> linears_;
  Linear head_;
  KvCache cache_;
  Matrix memory_, logits_;
};

class RepeatTest : public LayoutVerbTest {
 protected:
  /// What five steps of three sequences leave, of which every second step leaves the last sequence out.
  std::vector<std::vector<float>> run(bool repeated) const {
    const auto backend = machine().backend(2);
    Decoder decoder(*backend, dtype(), 3, weight_case());
    std::vector<int> next = {5, 17, 80}, held = {0, 0, 0};
    std::vector<std::vector<float>> left;
    for (int step = 0; step < 10; ++step) {
      const int rows = 3 - step % 2;
      std::vector<Segment> segments;
      std::vector<int> positions, outputs;
      std::vector<Choice> choices;
      for (int i = 0; i < rows; ++i) {
        const auto sequence = static_cast<std::size_t>(i);
        segments.push_back({i, i, 1, held[sequence]});
        positions.push_back(held[sequence]++);
        outputs.push_back(i);
        choices.push_back({.temperature = 0.3F * static_cast<float>(step % 4),
                           .top_p = i == 1 ? 0.9F : 1.0F,
                           .repetition_penalty = i == 2 ? 1.2F : 1.0F,
                           .random = 0x9e3779b97f4a7c15ULL * static_cast<unsigned>(3 * step + i),
                           .seen = std::span(next).first(static_cast<std::size_t>(i))});
      }
      backend->begin({std::span(next).first(static_cast<std::size_t>(rows)), positions, segments, outputs, choices});
      if (repeated) {
        backend->repeat(1, [&] { decoder.step(rows); });
      } else {
        decoder.step(rows);
      }
      const auto chosen = backend->chosen(0);
      std::copy(chosen.begin(), chosen.end(), next.begin());
      left.push_back(decoder.logits(rows));
      left.emplace_back(chosen.begin(), chosen.end());
    }
    return left;
  }
};

TEST_P(RepeatTest, ChoosesTheSameAheadOfWhatIsKnown) {
  // Two sequences that go on with each other's tokens.
  const auto choose = [&](bool ahead) {
    const auto backend = machine().backend(2);
    Decoder decoder(*backend, dtype(), 2, weight_case());
    const std::vector<int> outputs = {0, 1};
    std::vector<int> tokens = {5, 17}, all;
    const auto take = [&](int steps_back) {
      const auto chosen = backend->chosen(steps_back);
      all.insert(all.end(), chosen.begin(), chosen.end());
      tokens = {chosen[1], chosen[0]};
    };
    for (int step = 0; step < 9; ++step) {
      const std::vector<Segment> segments = {{0, 0, 1, step}, {1, 1, 1, step}};
      const std::vector<int> positions(2, step);
      std::vector<Choice> choices;
      for (unsigned i = 0; i < 2; ++i) {
        choices.push_back(
            {.temperature = 0.8F, .random = 0x9e3779b97f4a7c15ULL * (2 * static_cast<unsigned>(step) + i)});
      }
      backend->begin({tokens, positions, segments, outputs, choices});
      backend->repeat(1, [&] { decoder.step(2); });
      if (!ahead) take(0);
      if (ahead && step > 0) take(1);
      if (ahead) tokens = {chosen_before(1), chosen_before(0)};
    }
    if (ahead) take(0);
    return all;
  };
  EXPECT_EQ(choose(true), choose(false));
}

TEST_P(RepeatTest, LeavesWhatTheVerbsLeave) {
  const std::vector<std::vector<float>> called = run(false), repeated = run(true);
  for (const std::vector<float>& values : called) {
    for (const float value : values) ASSERT_TRUE(std::isfinite(value));
  }
  EXPECT_EQ(repeated, called);
}

TEST_P(RepeatTest, KeepsVerbsOfDifferentKeysApart) {
  const auto backend = machine().backend(2);
  const Matrix x(*backend, dtype(), 1, kWidth, 1U), y(*backend, dtype(), 1, kWidth);
  const Linear first{backend->prepare(weight_case().make(kWidth, kWidth, 1)), {}};
  const Linear second{backend->prepare(weight_case().make(kWidth, kWidth, 2)), {}};
  const auto run = [&](std::uint64_t key, const Linear& linear) {
    begin(*backend, {1});
    backend->repeat(key, [&] { backend->linear(linear, x.tensor(), y.tensor()); });
    return y.values();
  };
  const std::vector<float> of_first = run(1, first), of_second = run(2, second);
  EXPECT_NE(of_first, of_second);
  EXPECT_EQ(run(1, first), of_first);
  EXPECT_EQ(run(2, second), of_second);
}

INSTANTIATE_TEST_SUITE_P(All, RepeatTest, machines_dtypes_and(kWeightCases), layout_verb_test_name);

}  // namespace
}  // namespace nibble
