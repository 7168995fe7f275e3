#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "models/checkpoint/checkpoint.h"
#include "tests/models/checkpoint_testing.h"

namespace nibble {
namespace {

void expect_refused(const std::filesystem::path& file, std::initializer_list<std::string_view> parts,
                    ErrorKind kind = ErrorKind::kFormat) {
  for (const std::string_view part : parts) {
    expect_error(kind, {part, file.string() + ": "}, [&] { open_torch_bin(file); });
  }
}

std::size_t index_of(const TensorFile& file, const std::string& name) {
  for (std::size_t i = 0; i < file.tensors().size(); ++i) {
    if (file.tensors()[i].name == name) return i;
  }
  ADD_FAILURE() << "no tensor " << name;
  return 0;
}

TEST(TorchBin, ReadsWhatTorchSaves) {
  for (const char* name : {"torch_dtypes.bin", "torch_protocol4.bin", "torch_views.bin", "torch_module.bin",
                           "torch_parameter.bin", "torch_nested.bin", "torch_deflated.bin"}) {
    const auto file = open_torch_bin(fixture(name));
    expect_contents(name, file->tensors(), [&](std::size_t i) { return file->read(i); });
  }
}

TEST(TorchBin, ServesTiedTensorsFromOneMapping) {
  const auto file = open_torch_bin(fixture("torch_views.bin"));
  const HostTensor a = file->read(index_of(*file, "tied.a"));
  const HostTensor b = file->read(index_of(*file, "tied.b"));
  const HostTensor rows = file->read(index_of(*file, "rows"));
  EXPECT_EQ(a.data.data(), b.data.data());
  EXPECT_EQ(rows.data.data(), a.data.data() + 2 * 4 * sizeof(float));
  EXPECT_NE(file->read(index_of(*file, "transposed")).data.data(), a.data.data());
}

TEST(TorchBin, KeepsContentsAfterTheFileIsClosed) {
  for (const char* name : {"torch_module.bin", "torch_deflated.bin"}) {
    auto file = open_torch_bin(fixture(name));
    const HostTensor tensor = file->read(0);
    const std::string before(text_of(tensor));
    file.reset();
    EXPECT_EQ(text_of(tensor), before);
  }
}

TEST(TorchBin, ReadsCompressedStoragesFromManyThreads) {
  const auto file = open_torch_bin(fixture("torch_deflated.bin"));
  const std::string expected(text_of(file->read(0)));
  std::vector<std::string> found(4);
  std::vector<std::thread> threads;
  for (std::string& text : found) threads.emplace_back([&] { text = text_of(file->read(0)); });
  for (std::thread& thread : threads) thread.join();
  for (const std::string& text : found) EXPECT_EQ(text, expected);
}

TEST(TorchBin, RefusesAPickleThatRunsACommand) {
  expect_refused(fixture("bad_command.bin"), {"data.pkl asks for 'posix.system', which a state dict never needs"});
}

TEST(TorchBin, RefusesOtherContainersByName) {
  expect_refused(fixture("bad_legacy.bin"), {"legacy (not zip) format", "python -c", "weights_only=True"},
                 ErrorKind::kUnsupported);
  expect_refused(fixture("bad_torchscript.bin"), {"is a TorchScript archive"}, ErrorKind::kUnsupported);
  const TempDir folder;
  expect_refused(write_file(folder / "a", std::string(257, '\0') + "ustar" + std::string(250, '\0')),
                 {"tar archive", "python -c"}, ErrorKind::kUnsupported);
  expect_refused(write_file(folder / "b", ""), {"is empty"});
  expect_refused(write_file(folder / "c", "version https://git-lfs"), {"is not a zip archive"});
}

TEST(TorchBin, RefusesForeignByteOrderAndElementTypes) {
  expect_refused(fixture("bad_byteorder.bin"), {"big-endian"}, ErrorKind::kUnsupported);
  expect_refused(fixture("bad_complex.bin"), {"'torch.ComplexFloatStorage'"});
  expect_refused(fixture("bad_expanded.bin"), {"tensor 'weight' of shape [1000] repeats"}, ErrorKind::kUnsupported);
}

TEST(TorchBin, RefusesStoragesThatAreAbsentOrShort) {
  expect_refused(fixture("bad_missing_storage.bin"), {"tensor 'bias' refers to the storage '1'", "does not hold"});
  expect_refused(fixture("bad_short_storage.bin"), {"tensor 'bias' expects the storage '1' to have 8 bytes; it has 4"});
}

TEST(TorchBin, RefusesDamagedArchives) {
  expect_refused(fixture("bad_no_pickle.bin"), {"has no record 'torch_module/data.pkl'"});
  expect_refused(fixture("bad_twice.bin"), {"damaged", "exists"});
  expect_refused(fixture("bad_name.bin"), {"record 'torch_module/../0' has a name that leaves the archive"});
  expect_error(ErrorKind::kNotFound, {"/nonexistent/a.bin"}, [] { open_torch_bin("/nonexistent/a.bin"); });
}

TEST(TorchBin, RefusesEveryTruncationOfAGoodFile) {
  const TempDir folder;
  const std::string whole = read_file(fixture("torch_module.bin"));
  for (std::size_t size = 0; size < whole.size(); size += 7) {
    EXPECT_THROW(open_torch_bin(write_file(folder / "cut.bin", whole.substr(0, size))), Error) << size;
  }
}

TEST(TorchBin, SurvivesEveryDamagedByte) {
  const TempDir folder;
  for (const char* name : {"torch_module.bin", "torch_deflated.bin"}) {
    const std::string whole = read_file(fixture(name));
    for (std::size_t i = 0; i < whole.size(); ++i) {
      std::string damaged = whole;
      damaged[i] = static_cast<char>(damaged[i] ^ 0xff);
      try {
        const auto file = open_torch_bin(write_file(folder / "damaged.bin", damaged));
        for (std::size_t k = 0; k < file->tensors().size(); ++k) {
          EXPECT_EQ(file->read(k).data.size(), file->tensors()[k].bytes());
        }
      } catch (const Error& error) {
        EXPECT_NE(std::string(error.what()).find("damaged.bin: "), std::string::npos);
      }
    }
  }
}

TEST(TorchBin, NoticesADamagedCompressedStorage) {
  const TempDir folder;
  std::string bytes = read_file(fixture("torch_deflated.bin"));
  const std::string record = "torch_module/data/0";
  const std::size_t payload = bytes.find(record) + record.size();
  bytes[payload + 8] = static_cast<char>(bytes[payload + 8] ^ 0xff);
  const auto file = open_torch_bin(write_file(folder / "damaged.bin", bytes));
  expect_error(ErrorKind::kFormat, {"damaged.bin: ", "record 'torch_module/data/0'"},
               [&] { file->read(index_of(*file, "weight")); });
}

}  // namespace
}  // namespace nibble
