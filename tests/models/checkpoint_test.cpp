#include "models/checkpoint/checkpoint.h"

#include <gtest/gtest.h>

#include "models/checkpoint/shard_index.h"
#include "tests/models/checkpoint_testing.h"

namespace nibble {
namespace {

/// A safetensors file of one byte under that name.
std::string one_tensor(const std::string& name, char value = 'x') {
  return safetensors_bytes("{\"" + name + R"(":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
                           std::string(1, value));
}

void copy_fixture(const std::string& from, const std::filesystem::path& to) {
  std::filesystem::copy_file(fixture(from), to);
}

/// A sharded checkpoint: shard "s1" holds tensor "a", shard "s2" tensor "b", under an index of this weight map.
class Sharded {
 public:
  explicit Sharded(const std::string& weight_map) {
    write_file(folder_ / "s1", one_tensor("a", '1'));
    write_file(folder_ / "s2", one_tensor("b", '2'));
    write_file(folder_ / "model.safetensors.index.json",
               "{\"metadata\":{\"total_size\":2},\"weight_map\":" + weight_map + "}");
  }
  const TempDir& folder() const { return folder_; }
  Checkpoint open() const { return Checkpoint::open(folder_.path()); }

 private:
  TempDir folder_;
};

void expect_index_refused(std::string_view text, std::initializer_list<std::string_view> parts) {
  for (const std::string_view part : parts) {
    expect_error(ErrorKind::kFormat, {part, "i.json: "}, [&] { parse_shard_index(text, "i.json"); });
  }
}

TEST(Checkpoint, ReadsShardsOfBothContainers) {
  for (const char* name : {"sharded_safetensors", "sharded_torch"}) {
    const Checkpoint checkpoint = Checkpoint::open(fixture(name));
    expect_contents(name, checkpoint.tensors(),
                    [&](std::size_t i) { return checkpoint.read(checkpoint.tensors()[i]); });
  }
}

TEST(Checkpoint, FindsTensorsByName) {
  const Checkpoint checkpoint = Sharded(R"({"a":"s1","b":"s2"})").open();
  ASSERT_EQ(checkpoint.tensors().size(), 2u);
  EXPECT_EQ(checkpoint.tensors()[0].name, "a");
  ASSERT_NE(checkpoint.find("b"), nullptr);
  EXPECT_EQ(checkpoint.find("b")->file.filename(), "s2");
  EXPECT_EQ(text_of(checkpoint.read(*checkpoint.find("b"))), "2");
  EXPECT_EQ(checkpoint.find("c"), nullptr);
  EXPECT_EQ(checkpoint.find(""), nullptr);
}

TEST(Checkpoint, PrefersSafetensorsAndSingleFiles) {
  const TempDir folder;
  const auto opened = [&] { return Checkpoint::open(folder.path()).tensors().front().file.filename().string(); };
  copy_fixture("sharded_torch/pytorch_model.bin.index.json", folder / "pytorch_model.bin.index.json");
  for (const char* shard : {"pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"}) {
    copy_fixture(std::string("sharded_torch/") + shard, folder / shard);
  }
  EXPECT_TRUE(opened().ends_with("-of-00002.bin"));
  copy_fixture("torch_module.bin", folder / "pytorch_model.bin");
  EXPECT_EQ(opened(), "pytorch_model.bin");
  write_file(folder / "s1", one_tensor("a"));
  write_file(folder / "model.safetensors.index.json", R"({"weight_map":{"a":"s1"}})");
  EXPECT_EQ(opened(), "s1");
  write_file(folder / "model.safetensors", one_tensor("a"));
  EXPECT_EQ(opened(), "model.safetensors");
}

TEST(Checkpoint, OutlivesTheDirectory) {
  std::unique_ptr<Checkpoint> checkpoint;
  {
    const Sharded sharded(R"({"a":"s1","b":"s2"})");
    checkpoint = std::make_unique<Checkpoint>(sharded.open());
  }
  EXPECT_EQ(text_of(checkpoint->read(*checkpoint->find("a"))), "1");
}

TEST(Checkpoint, NamesWhatIsMissing) {
  expect_error(ErrorKind::kNotFound, {"/nonexistent/model: no such checkpoint directory"},
               [] { Checkpoint::open("/nonexistent/model"); });
  const TempDir folder;
  expect_error(ErrorKind::kNotFound,
               {folder.path().string(), "holds no checkpoint", "model.safetensors, model.safetensors.index.json",
                "pytorch_model.bin, pytorch_model.bin.index.json"},
               [&] { Checkpoint::open(folder.path()); });
  expect_error(ErrorKind::kInvalidArgument, {"is a file, expected a checkpoint directory"},
               [&] { Checkpoint::open(write_file(folder / "file", "")); });
}

TEST(Checkpoint, NamesAbsentShards) {
  const Sharded sharded(R"({"a":"s1","b":"s3","c":"s4"})");
  expect_error(ErrorKind::kNotFound, {"model.safetensors.index.json: ", "not beside it: 's3', 's4'"},
               [&] { sharded.open(); });
}

TEST(Checkpoint, RefusesAnIndexThatDisagreesWithItsShards) {
  const auto refused = [](const std::string& weight_map, std::initializer_list<std::string_view> parts) {
    const Sharded sharded(weight_map);
    expect_error(ErrorKind::kFormat, parts, [&] { sharded.open(); });
  };
  refused(R"({"a":"s1","b":"s2","c":"s2"})", {"index.json: ", "places tensor 'c' in 's2', which does not hold it"});
  refused(R"({"a":"s1","c":"s2"})", {"index.json: ", "does not list tensor 'b', which 's2' holds"});
  refused(R"({"a":"s2","b":"s1"})", {"places tensor 'a', which 's1' holds, in 's2'"});
}

TEST(Checkpoint, RefusesATensorInTwoShards) {
  const Sharded sharded(R"({"a":"s1","b":"s2"})");
  write_file(sharded.folder() / "s2", one_tensor("a"));
  expect_error(ErrorKind::kFormat, {"s2: holds tensor 'a', which 's1' holds too"}, [&] { sharded.open(); });
}

TEST(Checkpoint, RefusesADamagedShardByName) {
  const Sharded sharded(R"({"a":"s1","b":"s2"})");
  write_file(sharded.folder() / "s2", "cut");
  expect_error(ErrorKind::kFormat, {"s2: is 3 bytes long"}, [&] { sharded.open(); });
}

TEST(Checkpoint, RefusesToReadAForeignTensor) {
  const Checkpoint checkpoint = Sharded(R"({"a":"s1","b":"s2"})").open();
  expect_error(ErrorKind::kNotFound, {"tensor 'z' is not in this checkpoint"}, [&] {
    checkpoint.read({"z", DType::kU8, {1}, {}});
  });
}

TEST(ShardIndex, RefusesFilesThatAreNotBesideIt) {
  for (const std::string shard : {"../s1", "sub/s1", "/etc/passwd", "..", ".", "", "a\\\\b"}) {
    expect_index_refused("{\"weight_map\":{\"w\":\"" + shard + "\"}}",
                         {"places tensor 'w' in '", "not a file beside it"});
  }
}

TEST(ShardIndex, RefusesMalformedJson) {
  expect_index_refused("", {"expected valid JSON, found an error at byte 1"});
  expect_index_refused("{\"weight_map\":", {"expected valid JSON, found an error at byte"});
  expect_index_refused("[]", {"expected a JSON object, found array"});
  expect_index_refused("{}", {"has no object \"weight_map\""});
  expect_index_refused(R"({"weight_map":[]})", {"has no object \"weight_map\""});
  expect_index_refused(R"({"weight_map":{}})", {"has an empty \"weight_map\""});
  expect_index_refused(R"({"weight_map":{"w":1}})", {"does not name a file for tensor 'w'"});
  expect_index_refused(R"({"weight_map":{"w":"a","w":"b"}})", {"expected every key once, found 'w' twice"});
  expect_index_refused(std::string(100'000, '['), {"expected JSON nested at most 16 deep"});
}

}  // namespace
}  // namespace nibble
