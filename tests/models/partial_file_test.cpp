#include "models/checkpoint/partial_file.h"

#include <gtest/gtest.h>

#include "tests/models/checkpoint_testing.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

std::ptrdiff_t entries(const fs::path& directory) {
  const fs::directory_iterator files(directory);
  return std::distance(begin(files), end(files));
}

TEST(PartialFile, OfAnySizeReplacesWhatWasThere) {
  const TempDir folder;
  for (const std::string_view contents : {"contents", ""}) {
    write_file(folder / "f", "what was there");
    write_atomically(folder / "f", contents);
    EXPECT_EQ(read_file(folder / "f"), contents);
  }
  EXPECT_EQ(entries(folder.path()), 1);
}

TEST(PartialFile, ReplacesFilesAlone) {
  const TempDir folder;
  fs::create_directory(folder / "f");
  for (const fs::path& other : {folder / "f", fs::path("/dev/null")}) {
    expect_error(ErrorKind::kInvalidArgument, {other.string(), "expected a file or a name that is free"},
                 [&] { write_atomically(other, "contents"); });
  }
  EXPECT_EQ(entries(folder.path()), 1);
}

TEST(PartialFile, LeavesALinkToWhatIsWritten) {
  const TempDir folder;
  write_file(folder / "f", "what was there");
  fs::create_symlink(folder / "f", folder / "link");
  write_atomically(folder / "link", "contents");
  EXPECT_EQ(read_file(folder / "f"), "contents");
  EXPECT_TRUE(fs::is_symlink(folder / "link"));
}

TEST(PartialDirectory, AppearsWhenItIsCommitted) {
  const TempDir folder;
  for (const char* name : {"out", "out/", "out//", "out/.", "new/parents/out/"}) {
    {
      PartialDirectory directory(folder / name);
      write_atomically(directory.path() / "f", "contents");
      EXPECT_FALSE(fs::exists(folder / name)) << name;
      directory.commit();
    }
    EXPECT_EQ(read_file(folder / name / "f"), "contents") << name;
    EXPECT_EQ(entries(folder.path()), 1) << name;
    fs::remove_all(*fs::directory_iterator(folder.path()));
  }
}

TEST(PartialDirectory, LeavesNothingWhenDestroyedBeforeCommit) {
  const TempDir folder;
  for (const char* name : {"out", "out/", "new/parents/out"}) {
    write_atomically(PartialDirectory(folder / name).path() / "f", "contents");
    EXPECT_EQ(entries(folder.path()), 0) << name;
  }
}

TEST(PartialDirectory, RefusesNamesThatItCannotHave) {
  const TempDir folder;
  const auto refused = [&](const fs::path& name, ErrorKind kind, std::initializer_list<std::string_view> parts) {
    expect_error(kind, parts, [&] { PartialDirectory{name}; });
  };
  const std::string file = write_file(folder / "file", "").string();
  fs::create_symlink("absent", folder / "link");
  refused("", ErrorKind::kInvalidArgument, {"expected the name of a directory to be made, found none"});
  refused(folder.path(), ErrorKind::kInvalidArgument, {folder.path().string(), "found it exists"});
  refused(file, ErrorKind::kInvalidArgument, {file, "found it exists"});
  refused(folder / "link", ErrorKind::kInvalidArgument, {"link", "found it exists"});
  refused(file + "/out", ErrorKind::kIo, {file + "/out: cannot create it: Not a directory"});
  refused(folder / "new" / std::string(300, 'x'), ErrorKind::kIo, {"cannot create it: File name too long"});
  EXPECT_EQ(entries(folder.path()), 2);
}

}  // namespace
}  // namespace nibble
