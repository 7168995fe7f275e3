#include "models/checkpoint/safetensors_writer.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <fstream>
#include <iterator>

#include "tests/models/checkpoint_testing.h"

namespace nibble {
namespace {

using Metadata = std::map<std::string, std::string>;

TensorInfo info(std::string name, DType dtype, std::vector<std::int64_t> shape) {
  return {std::move(name), dtype, std::move(shape), {}};
}

std::span<const std::byte> bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

std::ptrdiff_t files_in(const TempDir& folder) {
  const std::filesystem::directory_iterator files(folder.path());
  return std::distance(begin(files), end(files));
}

TEST(SafetensorsWriter, WritesTheReferenceWritersBytes) {
  const std::vector<std::pair<std::string, Metadata>> cases = {{"torch.safetensors", {{"format", "pt"}}},
                                                               {"numpy.safetensors", {}},
                                                               {"notes.safetensors", {{"né", "2\t\"\x01"}}}};
  const TempDir folder;
  for (const auto& [name, metadata] : cases) {
    const auto source = open_safetensors(fixture(name));
    std::vector<TensorInfo> tensors = source->tensors();
    std::ranges::reverse(tensors);
    SafetensorsWriter writer(folder / name, tensors, metadata);
    for (std::size_t i = source->tensors().size(); i > 0; --i) {
      writer.write(source->tensors()[i - 1].name, source->read(i - 1).data);
    }
    writer.commit();
    EXPECT_EQ(read_file(folder / name), read_file(fixture(name))) << name;
  }
}

TEST(SafetensorsWriter, MarksFilesAsPyTorchsUnlessToldOtherwise) {
  const TempDir folder;
  SafetensorsWriter(folder / "w", {}).commit();
  EXPECT_EQ(read_file(folder / "w"), safetensors_bytes(R"({"__metadata__":{"format":"pt"}})", ""));
}

TEST(SafetensorsWriter, ShowsTheFileOnlyOnceItIsComplete) {
  const TempDir folder;
  write_file(folder / "w", "what was there");
  SafetensorsWriter writer(folder / "w", {info("a", DType::kU8, {3})});
  writer.write("a", bytes("abc"));
  EXPECT_EQ(read_file(folder / "w"), "what was there");
  writer.commit();
  EXPECT_EQ(files_in(folder), 1);
  EXPECT_EQ(text_of(open_safetensors(folder / "w")->read(0)), "abc");
}

TEST(SafetensorsWriter, LeavesNothingWhenDestroyedBeforeCommit) {
  const TempDir folder;
  {
    SafetensorsWriter writer(folder / "w", {info("a", DType::kU8, {3})});
    writer.write("a", bytes("abc"));
    EXPECT_EQ(files_in(folder), 1);
  }
  EXPECT_EQ(files_in(folder), 0);
}

TEST(SafetensorsWriter, FindsAFullDiskBeforeAnyWork) {
  const TempDir folder;
  rlimit old = {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = old;
  small.rlim_cur = 4096;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  expect_error(ErrorKind::kIo, {(folder / "w").string(), "cannot reserve its 8104 bytes"},
               [&] { SafetensorsWriter(folder / "w", {info("a", DType::kF32, {2000})}); });
  setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(files_in(folder), 0);
}

TEST(SafetensorsWriter, NamesAFolderThatDoesNotExist) {
  expect_error(ErrorKind::kIo, {"/nonexistent/w", "cannot create it"}, [] { SafetensorsWriter("/nonexistent/w", {}); });
}

TEST(SafetensorsWriter, RefusesContradictoryDeclarations) {
  const TempDir folder;
  const auto refused = [&](std::vector<TensorInfo> tensors, std::initializer_list<std::string_view> parts) {
    expect_error(ErrorKind::kInvalidArgument, parts, [&] { SafetensorsWriter(folder / "w", std::move(tensors)); });
  };
  refused({info("a", DType::kU8, {1}), info("a", DType::kF32, {1})}, {"tensor 'a' is declared twice"});
  refused({info("a", DType::kU8, {-1})}, {"tensor 'a' of shape [-1] is too large"});
  refused({info("a", DType::kF32, {1ll << 62})}, {"tensor 'a'", "is too large"});
  refused({info("a", DType::kU8, {1ll << 62}), info("b", DType::kU8, {1ll << 62})}, {"tensor 'b'", "is too large"});
  refused({info("__metadata__", DType::kU8, {1})}, {"'__metadata__'", "reserved"});
  refused({info("\xff", DType::kU8, {1})}, {"'\\xff' is not valid UTF-8"});
  EXPECT_EQ(files_in(folder), 0);
}

TEST(SafetensorsWriter, RefusesWritesThatWereNotDeclared) {
  const TempDir folder;
  SafetensorsWriter writer(folder / "w", {info("a", DType::kU8, {3}), info("b", DType::kU8, {0})});
  const auto refused = [&](const char* name, std::string_view data, std::initializer_list<std::string_view> parts) {
    expect_error(ErrorKind::kInvalidArgument, parts, [&] { writer.write(name, bytes(data)); });
  };
  refused("c", "", {"tensor 'c' was not declared"});
  refused("a", "abcd", {"tensor 'a' takes 3 bytes, but 4 were given"});
  writer.write("a", bytes("abc"));
  refused("a", "abc", {"tensor 'a' is written twice"});
  expect_error(ErrorKind::kInvalidArgument, {"tensor 'b' was never written"}, [&] { writer.commit(); });
}

}  // namespace
}  // namespace nibble
