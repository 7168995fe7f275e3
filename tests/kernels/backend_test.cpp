// The checks every backend shares, working memory, and the small verbs.
#include "kernels/backend.h"

#include <gtest/gtest.h>

#include "nibble/error.h"
#include "tests/affinity.h"
#include "tests/kernels/machines.h"

namespace nibble {
namespace {

template <class F>
void expect_refused(F&& f, std::string_view part, ErrorKind kind = ErrorKind::kInvalidArgument) {
  try {
    f();
    FAIL() << "expected an error that says: " << part;
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind);
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

constexpr DType kF32 = DType::kF32;

class CheckTest : public testing::TestWithParam<Machine> {
 protected:
  Matrix matrix(int rows, int cols, DType dtype = kF32) const { return {*backend_, dtype, rows, cols, 1U}; }
  Buffer parameters(int count) const { return matrix(1, count).buffer(); }

  std::unique_ptr<Backend> backend_ = GetParam().backend(2);
};

TEST_P(CheckTest, LinearRefusesShapesAndDtypesThatDoNotFit) {
  const Linear linear{backend_->prepare(random_dense<float>(4, 6, 1)), parameters(4)};
  const Matrix x = matrix(2, 6), y = matrix(2, 4);
  backend_->linear(linear, x.tensor(), y.tensor());
  expect_refused([&] { backend_->linear(linear, matrix(2, 5).tensor(), y.tensor()); },
                 "linear: expected x to be fp32 [2, 6], found fp32 [2, 5]");
  expect_refused([&] { backend_->linear(linear, x.tensor(), matrix(3, 4).tensor()); },
                 "linear: expected y to be fp32 [2, 4], found fp32 [3, 4]");
  expect_refused([&] { backend_->linear(linear, x.tensor(), matrix(2, 4, DType::kBF16).tensor()); },
                 "expected y to be fp32 [2, 4], found bf16 [2, 4]");
  expect_refused(
      [&] {
        backend_->linear({linear.weight, parameters(3)}, x.tensor(), y.tensor());
      },
      "linear: expected bias to have 4 fp32 values, found 12 bytes");
  expect_refused([&] { backend_->linear(linear, x.tensor(), y.tensor(), {.residual = matrix(2, 5).tensor()}); },
                 "linear: expected residual to be fp32 [2, 4], found fp32 [2, 5]");
  Tensor integers = x.tensor();
  integers.dtype = DType::kI32;
  expect_refused([&] { backend_->linear(linear, integers, y.tensor()); },
                 "linear: expected a compute dtype (fp32, fp16, bf16), found int32");
  const Linear square{backend_->prepare(random_dense<float>(6, 6, 1)), {}};
  expect_refused([&] { backend_->linear(square, x.tensor(), x.tensor()); }, "linear: expected y apart from x");
}

TEST_P(CheckTest, ProjectRefusesRowsThatAreNotTheBatchsAndLinearsThatDoNotFit) {
  const Linear first{backend_->prepare(random_dense<float>(4, 6, 1)), {}};
  const Linear second{backend_->prepare(random_dense<float>(5, 6, 2)), {}};
  const Matrix x = matrix(2, 6), y = matrix(2, 4), normed = matrix(2, 6);
  begin(*backend_, {2});
  project(*backend_, x.tensor(), {first, y.tensor()});
  const std::vector<Projection> wrong = {{first, y.tensor()}, {second, y.tensor()}};
  expect_refused([&] { backend_->project(x.tensor(), wrong); },
                 "project: expected y to be fp32 [2, 5], found fp32 [2, 4]");
  expect_refused(
      [&] {
        backend_->project({{}, {}, 5}, x.tensor(), normed.tensor(), {});
      },
      "project: expected x to be fp32 [2, 5], found fp32 [2, 6]");
  expect_refused(
      [&] {
        backend_->project({{}, {}, 6}, x.tensor(), y.tensor(), {});
      },
      "project: expected normed to be fp32 [2, 6], found fp32 [2, 4]");
  begin(*backend_, {1, 2});
  expect_refused(
      [&] {
        project(*backend_, x.tensor(), {first, y.tensor()});
      },
      "project: expected the batch's 3 rows, found 2");
}

TEST_P(CheckTest, EmbeddingRefusesIdsOutsideTheTable) {
  const Weight table = backend_->prepare(random_dense<float>(10, 4, 1));
  const Matrix y = matrix(2, 4);
  const auto begin_with = [&](std::vector<int> tokens, std::vector<int> positions) {
    backend_->begin({tokens, positions, segments_of({static_cast<int>(tokens.size())})});
  };
  begin_with({3, 10}, {0, 1});
  expect_refused([&] { backend_->embed(table, y.tensor()); }, "embed: expected ids from 0 to 9, found 10");
  for (const int bad : {-3, 8}) {
    begin_with({3, 4}, {7, bad});
    expect_refused([&] { backend_->add_positions(table, 2, y.tensor()); },
                   "add_positions: expected ids from -2 to 7, found " + std::to_string(bad));
  }
  begin_with({1, 2, 3}, {0, 1, 2});
  expect_refused([&] { backend_->embed(table, y.tensor()); }, "embed: expected y to be fp32 [3, 4], found fp32 [2, 4]");
}

TEST_P(CheckTest, TokensComeFromOutputsOfTheStepBefore) {
  const std::vector<int> ids = {0, 1}, outputs = {1, 0}, unknown = {chosen_before(1), chosen_before(2)};
  const std::vector<Choice> choices(2);
  const auto segments = segments_of({2});
  expect_refused(
      [&] {
        backend_->begin({unknown, ids, segments});
      },
      "begin: expected ids, or what one of 0 outputs of the step before chooses, found -2");
  backend_->begin({ids, ids, segments, outputs, choices});
  backend_->choose(matrix(2, 11).tensor());
  expect_refused(
      [&] {
        backend_->begin({unknown, ids, segments});
      },
      "begin: expected ids, or what one of 2 outputs of the step before chooses, found -3");
}

TEST_P(CheckTest, LayerNormRefusesShapesThatDoNotFit) {
  const Matrix x = matrix(2, 6), normed = matrix(2, 6), y = matrix(2, 4);
  const Linear linear{backend_->prepare(random_dense<float>(4, 6, 1)), {}};
  const auto refused = [&](const LayerNorm& norm, Tensor to, const std::string& sentence) {
    expect_refused([&] { backend_->linear(norm, linear, x.tensor(), to, y.tensor()); }, sentence);
  };
  refused({{}, {}, 5}, normed.tensor(), "linear: expected x to be fp32 [2, 5]");
  refused({parameters(5), {}, 6}, normed.tensor(), "linear: expected weight to have 6 fp32 values, found 20 bytes");
  refused({{}, {}, 6}, matrix(1, 6).tensor(), "linear: expected normed to be fp32 [2, 6], found fp32 [1, 6]");
  refused({{}, {}, 6}, x.tensor(), "linear: expected normed apart from x, found one inside the other");
}

TEST_P(CheckTest, BeginRefusesABatchThatDoesNotFit) {
  const auto begin_rows = [&](std::size_t rows, std::vector<Segment> segments, std::vector<int> outputs = {}) {
    const std::vector<int> ids(rows);
    backend_->begin({ids, ids, segments, outputs});
  };
  begin_rows(4, {{0, 0, 3, 0}, {1, 3, 1, 7}}, {3, 0, 3});
  expect_refused(
      [&] {
        begin_rows(4, {{0, 0, 4, -1}});
      },
      "begin: expected a segment of at least 1 row after at least 0");
  expect_refused([&] { begin_rows(4, {{0, 0, 0, 0}}); }, "found 0 after 0");
  expect_refused([&] { begin_rows(4, {{0, 1, 3, 0}}); }, "begin: expected a segment to begin at row 0, found 1");
  expect_refused(
      [&] {
        begin_rows(4, {{0, 0, 2, 0}, {0, 2, 2, 2}});
      },
      "begin: expected each sequence once, found 0 twice");
  expect_refused([&] { begin_rows(4, {{0, 0, 3, 0}}); }, "begin: expected segments of 4 rows together");
  expect_refused([&] { begin_rows(4, {{0, 0, 5, 0}}); }, "begin: expected segments of 4 rows together");
  expect_refused([&] { begin_rows(4, {}); }, "begin: expected segments of 4 rows together");
  for (const int bad : {-1, 4}) {
    expect_refused(
        [&] {
          begin_rows(4, {{0, 0, 4, 0}}, {0, bad});
        },
        "begin: expected outputs from 0 to 3, found " + std::to_string(bad));
  }
  expect_refused(
      [&] {
        begin_rows(2, {{0, 0, 2, 0}}, {0, 1, 1});
      },
      "begin: expected at most 2 outputs, as many as rows, found 3");
  const std::vector<int> two(2), three(3);
  expect_refused(
      [&] {
        backend_->begin({three, two, segments_of({3})});
      },
      "begin: expected 3 positions, one a token, found 2");
}

TEST_P(CheckTest, AttendRefusesSegmentsALayerOrACacheThatDoNotFit) {
  const Matrix x = matrix(4, 6), y = matrix(4, 6);
  KvCache cache = make_cache(*backend_, kF32, 2, 2, 2, 8, 3);
  const auto attend = [&](std::vector<Segment> segments, int layer = 0) {
    begin(*backend_, segments);
    backend_->attend(x.tensor(), x.tensor(), x.tensor(), layer, cache, y.tensor());
  };
  attend({{0, 0, 3, 0}, {1, 3, 1, 7}});
  expect_refused([&] { attend({{2, 0, 4, 0}}); }, "attend: expected sequences from 0 to 1, found 2");
  expect_refused([&] { attend({{-1, 0, 4, 0}}); }, "attend: expected sequences from 0 to 1, found -1");
  expect_refused([&] { attend({{0, 0, 4, 5}}); }, "expected sequence 0 to fit a context of 8 tokens, found 4 after 5");
  expect_refused([&] { attend({{0, 0, 3, 0}}); }, "attend: expected the batch's 3 rows, found 4");
  expect_refused([&] { attend({{0, 0, 4, 0}}, 2); }, "attend: expected a layer from 0 to 1, found 2");
  cache.values = backend_->allocate(100);
  expect_refused([&] { attend({{0, 0, 4, 0}}); }, "attend: expected a cache of twice 768 bytes, found 768 and 100");
  cache.head_dim = 4;
  expect_refused([&] { attend({{0, 0, 4, 0}}); }, "attend: expected q to be fp32 [4, 8], found fp32 [4, 6]");
}

TEST_P(CheckTest, EmptyCallsDoNothing) {
  const Matrix none = matrix(0, 4);
  const Linear linear{backend_->prepare(random_dense<float>(4, 4, 1)), {}};
  KvCache cache{{}, {}, kF32, 1, 0, 2, 0, 2};
  begin(*backend_, {});
  backend_->linear(linear, none.tensor(), none.tensor());
  backend_->linear({{}, {}, 4}, linear, none.tensor(), none.tensor(), none.tensor());
  project(*backend_, none.tensor(), {linear, none.tensor()});
  backend_->embed(linear.weight, none.tensor());
  backend_->attend(none.tensor(), none.tensor(), none.tensor(), 0, cache, none.tensor());
  backend_->gather_outputs(none.tensor(), none.tensor());
  backend_->choose(none.tensor());
  EXPECT_TRUE(backend_->chosen(0).empty());
  backend_->copy_to_host(none.tensor(), {});
}

INSTANTIATE_TEST_SUITE_P(All, CheckTest, testing::ValuesIn(machines()),
                         [](const auto& info) { return info.param.name; });

class RowsTest : public VerbTest {};

TEST_P(RowsTest, OfABatchsOutputsAreCopiedInOrder) {
  const auto backend = machine().backend(2);
  for (const int cols : {3, 64, 1000}) {
    const Matrix x(*backend, dtype(), 5, cols, 1), y(*backend, dtype(), 4, cols);
    const std::vector<int> ids(5), outputs = {4, 0, 0, 2};
    backend->begin({ids, ids, segments_of({5}), outputs});
    backend->gather_outputs(x.tensor(), y.tensor());
    const std::vector<float> from = x.values(), to = y.values();
    const auto width = static_cast<std::size_t>(cols);
    for (std::size_t i = 0; i < to.size(); ++i) {
      ASSERT_EQ(to[i], from[static_cast<std::size_t>(outputs[i / width]) * width + i % width]) << i;
    }
    expect_refused([&] { backend->gather_outputs(x.tensor(), x.tensor()); }, "gather_outputs: expected y to be ");
  }
}

TEST_P(RowsTest, AreWidenedOnTheWayToTheHost) {
  const auto backend = machine().backend(2);
  const std::vector<float> random = random_values(40 * 999, 1);
  const Matrix x(*backend, dtype(), 40, 999, random);
  std::vector<float> values(40 * 999);
  backend->copy_to_host(x.tensor(), values);
  with_dtype(dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    for (std::size_t i = 0; i < values.size(); ++i) ASSERT_EQ(values[i], rounded<T>(random[i])) << i;
  });
  values.pop_back();
  expect_refused([&] { backend->copy_to_host(x.tensor(), values); },
                 "copy_to_host: expected room for [40, 999] values, found 39959");
}

TEST_P(RowsTest, OfATableAreThoseThatTheStepBeforeChooses) {
  const auto backend = machine().backend(2);
  const int vocabulary = 50, cols = 64;
  const Weight table = backend->prepare(random_dense<float>(vocabulary, cols, 1));
  const Matrix logits(*backend, dtype(), 2, vocabulary, 2U);
  const std::vector<int> ids = {0, 1}, outputs = {1, 0};
  const std::vector<Choice> choices(2);
  for (const int longer : {2, 3, 400}) {  // also where working memory has to grow
    backend->begin({ids, ids, segments_of({2}), outputs, choices});
    backend->choose(logits.tensor());
    std::vector<int> tokens(static_cast<std::size_t>(longer), 7);
    tokens[0] = chosen_before(1), tokens[1] = chosen_before(0);
    const std::vector<int> positions(tokens.size());
    const Matrix y(*backend, dtype(), longer, cols), expected(*backend, dtype(), longer, cols);
    backend->begin({tokens, positions, segments_of({longer})});
    backend->embed(table, y.tensor());
    const std::span<const int> chosen = backend->chosen(1);
    ASSERT_EQ(chosen.size(), 2U);
    EXPECT_NE(chosen[0], chosen[1]);
    tokens[0] = chosen[1], tokens[1] = chosen[0];
    backend->begin({tokens, positions, segments_of({longer})});
    backend->embed(table, expected.tensor());
    EXPECT_EQ(y.values(), expected.values()) << longer;
  }
  backend->begin({ids, ids, segments_of({2}), outputs, choices});
  backend->choose(logits.tensor());
  const std::vector<int> tokens = {chosen_before(0)};
  backend->begin({tokens, tokens, segments_of({1})});
  const Weight small = backend->prepare(random_dense<float>(vocabulary - 1, cols, 1));
  const Matrix y(*backend, dtype(), 1, cols);
  expect_refused([&] { backend->embed(small, y.tensor()); }, "embed: expected ids from 0 to 48, found 49");
}

INSTANTIATE_TEST_SUITE_P(All, RowsTest, machines_and_dtypes(), verb_test_name);

TEST(CpuScratch, IsWhatWasPredictedAndStaysSo) {
  for (const auto [threads, rows, cols, context] :
       {std::array{1, 1, 64, 16}, std::array{2, 7, 768, 2048}, std::array{3, 1000, 3072, 50}}) {
    const auto backend = make_cpu_backend({.threads = threads});
    const Extent extent{rows, cols, context, 1, 50272, cols};
    backend->reserve(extent);
    const std::size_t reserved = backend->scratch_bytes();
    EXPECT_EQ(reserved, cpu_scratch_bytes(threads, extent));
    const Matrix x(*backend, kF32, rows, cols, 1), y(*backend, kF32, rows, 5);
    backend->linear({random_dense<float>(5, cols, 1), {}}, x.tensor(), y.tensor());
    const std::vector<int> ids(static_cast<std::size_t>(rows), 1);
    backend->begin({ids, ids, segments_of({rows})});
    backend->add_positions(random_dense<float>(5, cols, 1), 2, x.tensor());
    const int fitting = std::min(rows, context);
    KvCache cache = make_cache(*backend, kF32, 1, 1, 1, context, cols);
    const Matrix attended(*backend, kF32, fitting, cols);
    begin(*backend, {fitting});
    backend->attend(x.rows(0, fitting), x.rows(0, fitting), x.rows(0, fitting), 0, cache, attended.tensor());
    EXPECT_EQ(backend->scratch_bytes(), reserved) << "after calls within what was reserved";
  }
}

TEST(CpuTargets, NameThemselvesAndRunEverywhere) {
  ASSERT_FALSE(available_targets().empty());
  EXPECT_EQ(available_targets().front(), CpuTarget::kPortable);
  for (const CpuTarget target : available_targets()) {
    const std::string description = CpuBackend(3, target).description();
    EXPECT_NE(description.find(to_string(target)), std::string::npos) << description;
    EXPECT_NE(description.find("3 threads"), std::string::npos) << description;
    EXPECT_EQ(make_backend(Device::kCpu, {3, to_string(target)})->description(), description);
  }
  expect_refused(
      [] {
        make_backend(Device::kCpu, {1, "mmx"});
      },
      "CPU target: expected one that this machine has (portable");
}

TEST(CpuTargets, HaveTilesForLongSegmentsWhereTheyAreFaster) {
  for (const CpuTarget target : available_targets()) {
    const CpuBackend backend(1, target);
    for (const WeightCase& weight_case : kWeightCases) {
      const Weight weight = weight_case.make(3, 128, 1);
      for (const DType dtype : kComputeDTypes) {
        const bool has_tiles =
            target >= (std::holds_alternative<Int8Decomp>(weight) ? CpuTarget::kAvx512Vnni : CpuTarget::kAvx2);
        EXPECT_EQ(backend.ways(weight, 1, dtype).size(), has_tiles ? 2U : 1U) << to_string(target) << weight_case.name;
      }
    }
  }
}

TEST(CudaBackend, SaysWhyItIsNotThere) {
  if (has_cuda()) GTEST_SKIP() << "it is there";
  expect_refused([] { make_backend(Device::kCuda); }, "device cuda: ", ErrorKind::kUnsupported);
}

TEST(CpuOptions, PinTheThreadsThatAreNotTheCallers) {
  if (cores_of(0) < 2) GTEST_SKIP() << "there is one core only";
  const auto free = make_backend(Device::kCpu, {.threads = 2});
  EXPECT_EQ(pinned_threads(), 0);
  const auto pinned = make_backend(Device::kCpu, {.threads = 2, .pin_threads = true});
  EXPECT_EQ(pinned_threads(), 1);
  EXPECT_EQ(pinned->description(), free->description());
}

TEST(CpuOptions, AreForTheCpuAlone) {
  expect_refused([] { make_backend(Device::kCuda, {.pin_threads = true}); },
                 "pinned threads: expected device cpu, found cuda");
  expect_refused([] { make_backend(Device::kCuda, {.int8_activations = true}); },
                 "8-bit activations: expected device cpu, found cuda");
}

}  // namespace
}  // namespace nibble
