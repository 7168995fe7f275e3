// The checks every backend shares, working memory, and the small verbs.
#include "kernels/backend.h"

#include <gtest/gtest.h>

#include "nibble/error.h"
#include "tests/kernels/matrix.h"

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

TEST(Linear, RefusesShapesAndDtypesThatDoNotFit) {
  const auto backend = make_cpu_backend(1);
  const Linear linear{random_dense<float>(4, 6, 1), buffer_of<float>(random_values(4, 2))};
  const Matrix x(kF32, 2, 6, 1), y(kF32, 2, 4);
  backend->linear(linear, x.tensor(), y.tensor());
  expect_refused([&] { backend->linear(linear, Matrix(kF32, 2, 5).tensor(), y.tensor()); },
                 "linear: expected x to be fp32 [2, 6], found fp32 [2, 5]");
  expect_refused([&] { backend->linear(linear, x.tensor(), Matrix(kF32, 3, 4).tensor()); },
                 "linear: expected y to be fp32 [2, 4], found fp32 [3, 4]");
  expect_refused([&] { backend->linear(linear, x.tensor(), Matrix(DType::kBF16, 2, 4).tensor()); },
                 "expected y to be fp32 [2, 4], found bf16 [2, 4]");
  expect_refused(
      [&] {
        backend->linear({linear.weight, buffer_of<float>(random_values(3, 2))}, x.tensor(), y.tensor());
      },
      "linear: expected bias to have 4 fp32 values, found 12 bytes");
  expect_refused([&] { backend->linear(linear, x.tensor(), y.tensor(), {.residual = Matrix(kF32, 2, 5).tensor()}); },
                 "linear: expected residual to be fp32 [2, 4], found fp32 [2, 5]");
  Tensor integers = x.tensor();
  integers.dtype = DType::kI32;
  expect_refused([&] { backend->linear(linear, integers, y.tensor()); },
                 "linear: expected a compute dtype (fp32, fp16, bf16), found int32");
  const Linear square{random_dense<float>(6, 6, 1), {}};
  expect_refused([&] { backend->linear(square, x.tensor(), x.tensor()); }, "linear: expected y apart from x");
}

TEST(Embedding, RefusesIdsOutsideTheTable) {
  const auto backend = make_cpu_backend(1);
  const Weight table = random_dense<float>(10, 4, 1);
  const Matrix y(kF32, 2, 4);
  for (const int bad : {-1, 10}) {
    const std::vector<int> ids = {3, bad};
    expect_refused([&] { backend->embed(table, ids, y.tensor()); },
                   "embed: expected ids from 0 to 9, found " + std::to_string(bad));
    expect_refused([&] { backend->add_embedding(table, ids, y.tensor()); }, "add_embedding: expected ids from 0 to 9");
  }
  const std::vector<int> three = {1, 2, 3};
  expect_refused([&] { backend->embed(table, three, y.tensor()); },
                 "embed: expected y to be fp32 [3, 4], found fp32 [2, 4]");
}

TEST(LayerNormCheck, RefusesShapesThatDoNotFit) {
  const auto backend = make_cpu_backend(1);
  const Matrix x(kF32, 2, 6, 1), y(kF32, 2, 6);
  expect_refused(
      [&] {
        backend->layer_norm({{}, {}, 5}, x.tensor(), y.tensor());
      },
      "layer_norm: expected x to be fp32 [2, 5]");
  expect_refused(
      [&] {
        backend->layer_norm({buffer_of<float>(random_values(5, 1)), {}, 6}, x.tensor(), y.tensor());
      },
      "layer_norm: expected weight to have 6 fp32 values, found 20 bytes");
  expect_refused(
      [&] {
        backend->layer_norm({{}, {}, 6}, x.tensor(), Matrix(kF32, 1, 6).tensor());
      },
      "layer_norm: expected y to be fp32 [2, 6], found fp32 [1, 6]");
}

class AttendCheck : public testing::Test {
 protected:
  void attend(std::vector<Segment> segments, int layer = 0) {
    backend_->attend(x_.tensor(), x_.tensor(), x_.tensor(), segments, layer, cache_, y_.tensor());
  }

  std::unique_ptr<Backend> backend_ = make_cpu_backend(1);
  Matrix x_{kF32, 4, 6, 1}, y_{kF32, 4, 6};
  KvCache cache_{Buffer::allocate(2 * 2 * 8 * 6 * 4), Buffer::allocate(2 * 2 * 8 * 6 * 4), kF32, 2, 2, 2, 8, 3};
};

TEST_F(AttendCheck, RefusesSegmentsThatDoNotFit) {
  attend({{0, 0, 3, 0}, {1, 3, 1, 7}});
  expect_refused([&] { attend({{2, 0, 4, 0}}); }, "attend: expected sequences from 0 to 1, found 2");
  expect_refused([&] { attend({{-1, 0, 4, 0}}); }, "attend: expected sequences from 0 to 1, found -1");
  expect_refused([&] { attend({{0, 0, 4, 5}}); }, "expected sequence 0 to fit a context of 8 tokens, found 4 after 5");
  expect_refused([&] { attend({{0, 0, 4, -1}}); }, "found 4 after -1");
  expect_refused([&] { attend({{0, 0, 0, 0}}); }, "found 0 after 0");
  expect_refused([&] { attend({{0, 1, 3, 0}}); }, "expected a segment to begin at row 0, found 1");
  expect_refused([&] { attend({{0, 0, 2, 0}, {0, 2, 2, 2}}); }, "expected each sequence once, found 0 twice");
  expect_refused([&] { attend({{0, 0, 3, 0}}); }, "expected segments of 4 rows together");
  expect_refused([&] { attend({{0, 0, 5, 0}}); }, "expected segments of 4 rows together");
  expect_refused([&] { attend({}); }, "expected segments of 4 rows together");
}

TEST_F(AttendCheck, RefusesALayerOrACacheThatDoesNotFit) {
  expect_refused([&] { attend({{0, 0, 4, 0}}, 2); }, "attend: expected a layer from 0 to 1, found 2");
  cache_.values = Buffer::allocate(100);
  expect_refused([&] { attend({{0, 0, 4, 0}}); }, "attend: expected a cache of twice 768 bytes, found 768 and 100");
  cache_.head_dim = 4;
  expect_refused([&] { attend({{0, 0, 4, 0}}); }, "attend: expected q to be fp32 [4, 8], found fp32 [4, 6]");
}

TEST(GatherRows, CopiesThemInOrderAndRefusesOthers) {
  const auto backend = make_cpu_backend(2);
  for (const DType dtype : kComputeDTypes) {
    const Matrix x(dtype, 5, 3, 1), y(dtype, 4, 3);
    const std::vector<int> rows = {4, 0, 0, 2};
    backend->gather_rows(x.tensor(), rows, y.tensor());
    const std::vector<float> from = x.values(), to = y.values();
    for (std::size_t i = 0; i < to.size(); ++i)
      EXPECT_EQ(to[i], from[static_cast<std::size_t>(rows[i / 3]) * 3 + i % 3]);
    const std::vector<int> beyond = {0, 1, 2, 5};
    expect_refused([&] { backend->gather_rows(x.tensor(), beyond, y.tensor()); },
                   "gather_rows: expected rows from 0 to 4, found 5");
  }
}

TEST(CopyToHost, WidensAndRefusesTheWrongRoom) {
  const auto backend = make_cpu_backend(2);
  for (const DType dtype : kComputeDTypes) {
    const Matrix x(dtype, 40, 999, 1);
    std::vector<float> values(40 * 999);
    backend->copy_to_host(x.tensor(), values);
    EXPECT_EQ(values, x.values());
    values.pop_back();
    expect_refused([&] { backend->copy_to_host(x.tensor(), values); },
                   "copy_to_host: expected room for [40, 999] values, found 39959");
  }
}

TEST(EmptyCalls, DoNothing) {
  const auto backend = make_cpu_backend(2);
  const Matrix none(kF32, 0, 4);
  KvCache cache{{}, {}, kF32, 1, 0, 2, 0, 2};
  backend->linear({random_dense<float>(4, 4, 1), {}}, none.tensor(), none.tensor());
  backend->layer_norm({{}, {}, 4}, none.tensor(), none.tensor());
  backend->embed(random_dense<float>(4, 4, 1), {}, none.tensor());
  backend->attend(none.tensor(), none.tensor(), none.tensor(), {}, 0, cache, none.tensor());
  backend->gather_rows(Matrix(kF32, 3, 4).tensor(), {}, none.tensor());
  backend->copy_to_host(none.tensor(), {});
}

TEST(CpuScratch, IsWhatWasPredictedAndStaysSo) {
  for (const auto [threads, rows, cols, context] :
       {std::array{1, 1, 64, 16}, std::array{2, 7, 768, 2048}, std::array{3, 1000, 3072, 50}}) {
    const auto backend = make_cpu_backend(threads);
    backend->reserve(rows, cols, context);
    const std::size_t reserved = backend->scratch_bytes();
    EXPECT_EQ(reserved, cpu_scratch_bytes(threads, rows, cols, context));
    const Matrix x(kF32, rows, cols, 1), y(kF32, rows, 5);
    backend->linear({random_dense<float>(5, cols, 1), {}}, x.tensor(), y.tensor());
    const std::vector<int> ids(static_cast<std::size_t>(rows), 1);
    backend->add_embedding(random_dense<float>(5, cols, 1), ids, x.tensor());
    const int fitting = std::min(rows, context);
    const auto bytes = static_cast<std::size_t>(context * cols) * sizeof(float);
    KvCache cache{Buffer::allocate(bytes), Buffer::allocate(bytes), kF32, 1, 1, 1, context, cols};
    const Segment segment{0, 0, fitting, context - fitting};
    std::fill_n(cache.keys.mutable_as<float>(), bytes / sizeof(float), 0.0F);
    std::fill_n(cache.values.mutable_as<float>(), bytes / sizeof(float), 0.0F);
    const Matrix attended(kF32, fitting, cols);
    backend->attend(x.rows(0, fitting), x.rows(0, fitting), x.rows(0, fitting), {&segment, 1}, 0, cache,
                    attended.tensor());
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
  }
}

#if !defined(NIBBLE_CUDA)
TEST(CudaBackend, SaysThatItIsNotInThisBuild) {
  expect_refused([] { make_backend(Device::kCuda, 0); }, "built without CUDA", ErrorKind::kUnsupported);
}
#endif

}  // namespace
}  // namespace nibble
