#include <gtest/gtest.h>

#include <string>

#include "models/checkpoint/checkpoint.h"
#include "models/checkpoint/safetensors_header.h"
#include "tests/models/checkpoint_testing.h"

namespace nibble {
namespace {

void expect_refused(const std::string& bytes, std::initializer_list<std::string_view> parts,
                    ErrorKind kind = ErrorKind::kFormat) {
  const TempDir folder;
  const auto file = write_file(folder / "weights.safetensors", bytes);
  std::vector<std::string_view> sentence(parts);
  sentence.push_back("weights.safetensors: ");
  for (const std::string_view part : sentence) expect_error(kind, {part}, [&] { open_safetensors(file); });
}

/// The header of one tensor "w" with these fields, over `size` bytes of data.
std::string with_tensor(const std::string& fields, std::size_t size = 8) {
  return safetensors_bytes("{\"w\":{" + fields + "}}", std::string(size, 'x'));
}

TEST(Safetensors, ReadsWhatTheReferenceWrites) {
  for (const char* name : {"torch.safetensors", "numpy.safetensors", "notes.safetensors"}) {
    const auto file = open_safetensors(fixture(name));
    expect_contents(name, file->tensors(), [&](std::size_t i) { return file->read(i); });
  }
}

TEST(Safetensors, ListsTensorsInTheOrderOfTheirContents) {
  const TempDir folder;
  const std::string header =
      R"({"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"a":{"dtype":"I8","shape":[1],"data_offsets":[2,3]}})";
  const auto path = write_file(folder / "w.safetensors", safetensors_bytes(header, "xyz"));
  const auto file = open_safetensors(path);
  ASSERT_EQ(file->tensors().size(), 2u);
  EXPECT_EQ(file->tensors()[0].name, "b");
  EXPECT_EQ(file->tensors()[1].file, path);
  EXPECT_EQ(text_of(file->read(0)), "xy");
  EXPECT_EQ(text_of(file->read(1)), "z");
}

TEST(Safetensors, CopiesContentsThatAreNotAligned) {
  const TempDir folder;
  // A header of even length and one byte of another tensor put the float at an odd place, as old writers did.
  const std::string header =
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"F32","shape":[],"data_offsets":[1,5]}} )";
  ASSERT_EQ(header.size() % 2, 0u);
  const auto file =
      open_safetensors(write_file(folder / "w.safetensors", safetensors_bytes(header, "?" + bytes_of(1.5f))));
  const HostTensor tensor = file->read(1);
  ASSERT_EQ(reinterpret_cast<std::uintptr_t>(tensor.data.data()) % sizeof(float), 0u);
  EXPECT_EQ(*reinterpret_cast<const float*>(tensor.data.data()), 1.5f);
}

TEST(Safetensors, KeepsContentsMappedAfterTheFileIsClosed) {
  auto file = open_safetensors(fixture("numpy.safetensors"));
  const HostTensor tensor = file->read(0);
  const std::string before(text_of(tensor));
  file.reset();
  EXPECT_EQ(text_of(tensor), before);
}

TEST(Safetensors, ReadsAFileWithoutTensors) {
  const TempDir folder;
  EXPECT_TRUE(open_safetensors(write_file(folder / "w", safetensors_bytes("{}  ", "")))->tensors().empty());
}

TEST(Safetensors, NamesAMissingFile) {
  expect_error(ErrorKind::kNotFound, {"/nonexistent/model.safetensors", "cannot be opened"},
               [] { open_safetensors("/nonexistent/model.safetensors"); });
  const TempDir folder;
  expect_error(ErrorKind::kIo, {"is not a regular file"}, [&] { open_safetensors(folder.path()); });
}

TEST(Safetensors, RefusesATruncatedFile) {
  expect_refused("", {"is 0 bytes long", "too short"});
  expect_refused("1234567", {"is 7 bytes long", "too short"});
  const std::string whole = read_file(fixture("torch.safetensors"));
  expect_refused(whole.substr(0, 100), {"claims a header of", "but only 92 follow", "truncated"});
  expect_refused(whole.substr(0, whole.size() - 1), {"is truncated", "its tensors take"});
}

TEST(Safetensors, RefusesEveryTruncationOfAGoodFile) {
  const std::string whole = read_file(fixture("notes.safetensors"));
  for (std::size_t size = 0; size < whole.size(); ++size) {
    EXPECT_THROW(parse_safetensors_header(std::as_bytes(std::span(whole).first(size)), "cut"), Error) << size;
  }
}

TEST(Safetensors, RefusesAnOversizedFile) {
  expect_refused(read_file(fixture("torch.safetensors")) + "extra", {"has 5 bytes after its last tensor"});
}

TEST(Safetensors, RefusesAHeaderLengthThatCannotBe) {
  expect_refused(bytes_of<std::uint64_t>(50) + "{}", {"claims a header of 50 bytes", "only 2 follow"});
  expect_refused(bytes_of<std::uint64_t>(100'000'001) + "{}", {"claims a header of 100000001 bytes", "at most"});
  expect_refused(bytes_of<std::uint64_t>(~0ull) + "{}", {"claims a header of 18446744073709551615 bytes"});
}

TEST(Safetensors, RefusesAHeaderThatIsNotJson) {
  expect_refused(safetensors_bytes("", ""), {"does not begin with '{'"});
  expect_refused(safetensors_bytes(" {}", ""), {"does not begin with '{'"});
  expect_refused(safetensors_bytes("[]", ""), {"does not begin with '{'"});
  expect_refused(safetensors_bytes("{\"w\":", ""), {"not valid JSON at byte"});
  expect_refused(safetensors_bytes("{} x", ""), {"not valid JSON at byte"});
  expect_refused(safetensors_bytes("{\"\xff\":1}", ""), {"not valid JSON at byte"});
  expect_refused(safetensors_bytes(std::string_view("{}\0{}", 5), ""), {"zero byte"});
}

TEST(Safetensors, RefusesAHeaderOfTheWrongForm) {
  expect_refused(safetensors_bytes(R"({"w":3})", ""), {"a number for tensor 'w'", "not an object"});
  expect_refused(safetensors_bytes(R"({"w":[]})", ""), {"an array for tensor 'w'"});
  expect_refused(safetensors_bytes(R"({"w":null})", ""), {"null for tensor 'w'"});
  expect_refused(safetensors_bytes(R"({"__metadata__":{"a":1}})", ""), {"__metadata__ holds a number"});
  expect_refused(safetensors_bytes(R"({"__metadata__":{"a":{}}})", ""), {"__metadata__ holds an object"});
  expect_refused(with_tensor(R"("dtype":7)"), {"tensor 'w' has a number in its field 'dtype'"});
  expect_refused(with_tensor(R"("dtype":{"a":1})"), {"tensor 'w' has an object in its field 'dtype'"});
  expect_refused(with_tensor(R"("shape":"big")"), {"tensor 'w' has a string in its field 'shape'"});
  expect_refused(with_tensor(R"("shape":[-1])"), {"a negative number in its field 'shape'"});
  expect_refused(with_tensor(R"("shape":[2.5])"), {"not a 64-bit integer in its field 'shape'"});
  expect_refused(with_tensor(R"("shape":[18446744073709551616])"), {"not a 64-bit integer in its field 'shape'"});
  expect_refused(with_tensor(R"("shape":[[1]])"), {"an array in its field 'shape'"});
  expect_refused(with_tensor(R"("shape":[true])"), {"true or false in its field 'shape'"});
  expect_refused(with_tensor(R"("stride":[1])"), {"tensor 'w' has an unknown field 'stride'"});
}

TEST(Safetensors, RefusesDeepNestingWithoutExhaustingTheStack) {
  expect_refused(safetensors_bytes("{\"w\":" + std::string(1'000'000, '['), ""), {"an array for tensor 'w'"});
}

TEST(Safetensors, RefusesAMissingField) {
  expect_refused(with_tensor(R"("shape":[2],"data_offsets":[0,8])"), {"tensor 'w' has no dtype"});
  expect_refused(with_tensor(R"("dtype":"F32","data_offsets":[0,8])"), {"tensor 'w' has no shape"});
  expect_refused(with_tensor(R"("dtype":"F32","shape":[2])"), {"tensor 'w' has no data_offsets"});
  expect_refused(with_tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0])"), {"tensor 'w' has 1 data_offsets"});
}

TEST(Safetensors, RefusesWhatIsNamedTwice) {
  const std::string empty = R"({"dtype":"F32","shape":[0],"data_offsets":[0,0]})";
  expect_refused(safetensors_bytes("{\"w\":" + empty + ",\"w\":" + empty + "}", ""), {"has the name 'w' twice"});
  expect_refused(safetensors_bytes(R"({"__metadata__":{},"__metadata__":{}})", ""), {"name '__metadata__' twice"});
  expect_refused(safetensors_bytes(R"({"__metadata__":{"a":"","a":""}})", ""), {"has the key 'a' twice"});
  expect_refused(with_tensor(R"("dtype":"F32","dtype":"F32")"), {"has the field 'dtype' twice"});
  expect_refused(with_tensor(R"("shape":[1],"shape":[1])"), {"has the field 'shape' twice"});
  expect_refused(with_tensor(R"("data_offsets":[],"data_offsets":[])"), {"has the field 'data_offsets' twice"});
}

TEST(Safetensors, RefusesOtherElementTypesByName) {
  for (const std::string name : {"F8_E4M3", "F4", "C64", "F8_E8M0"}) {
    expect_refused(with_tensor("\"dtype\":\"" + name + "\",\"shape\":[8],\"data_offsets\":[0,8]"),
                   {"tensor 'w' has element type " + name, "which nibble does not read"}, ErrorKind::kUnsupported);
  }
  expect_refused(with_tensor(R"("dtype":"f32","shape":[2],"data_offsets":[0,8])"),
                 {"tensor 'w' has element type 'f32'", "does not define"});
}

TEST(Safetensors, RefusesOverlapsAndHoles) {
  const auto two = [](const std::string& first, const std::string& second) {
    return safetensors_bytes(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + first +
                                 R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + second + "}}",
                             "12345678");
  };
  expect_refused(two("[0,4]", "[2,6]"), {"tensor 'b' overlaps tensor 'a'"});
  expect_refused(two("[0,4]", "[0,4]"), {"overlaps"});
  expect_refused(two("[0,4]", "[5,9]"), {"hole of 1 bytes between tensor 'a' and tensor 'b'"});
  expect_refused(two("[1,5]", "[5,9]"), {"hole of 1 bytes between the header and tensor 'a'"});
  expect_refused(two("[4,0]", "[4,8]"), {"tensor 'a' ends at byte 0, before it begins at 4"});
  expect_refused(two("[0,4]", "[4,9]"), {"tensor 'b' of shape [4] and type U8 needs 4 bytes", "span 5"});
}

TEST(Safetensors, RefusesASizeThatDoesNotFitTheShape) {
  expect_refused(with_tensor(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])"),
                 {"tensor 'w' of shape [3] and type F32 needs 12 bytes", "span 8"});
  expect_refused(with_tensor(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8])"),
                 {"tensor 'w' of shape [4294967296, 4294967296]", "more bytes than can be counted"});
  expect_refused(with_tensor(R"("dtype":"F64","shape":[2305843009213693953],"data_offsets":[0,8])"),
                 {"more bytes than can be counted"});
  expect_refused(with_tensor(R"("dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8])"),
                 {"tensor 'w' has a dimension of 18446744073709551615"});
}

TEST(Safetensors, ShowsHostileNamesHarmlessly) {
  expect_refused(safetensors_bytes("{\"\\u001b[2J\":1}", ""), {"tensor '\\x1b[2J'"});
}

}  // namespace
}  // namespace nibble
