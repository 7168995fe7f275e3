// Shared by the tests of models/checkpoint: a folder that cleans up, files made of bytes, and sentences of errors.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "models/checkpoint/checkpoint.h"
#include "nibble/error.h"
#include "tests/places.h"

namespace nibble {

/// A new empty folder, removed with everything in it.
class TempDir {
 public:
  TempDir() {
    static std::atomic<int> counter = 0;
    path_ = std::filesystem::temp_directory_path() /
            ("nibble-checkpoint-" + std::to_string(::getpid()) + "-" + std::to_string(counter++));
    std::filesystem::create_directories(path_);
  }
  ~TempDir() { std::filesystem::remove_all(path_); }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline std::filesystem::path write_file(const std::filesystem::path& file, std::string_view text) {
  std::ofstream(file, std::ios::binary).write(text.data(), static_cast<std::streamsize>(text.size()));
  return file;
}

inline std::string read_file(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

inline std::filesystem::path fixture(const std::string& name) {
  return std::filesystem::path(fixtures_dir()) / "checkpoint" / name;
}

inline std::string_view text_of(const HostTensor& tensor) {
  return {reinterpret_cast<const char*>(tensor.data.data()), tensor.data.size()};
}

/// The bytes of a trivially copyable value, little endian.
template <typename T>
std::string bytes_of(T value) {
  std::string text(sizeof value, '\0');
  std::memcpy(text.data(), &value, sizeof value);
  return text;
}

/// A safetensors file of that header and data.
inline std::string safetensors_bytes(std::string_view header, std::string_view data) {
  return bytes_of<std::uint64_t>(header.size()) + std::string(header) + std::string(data);
}

/// `action` must throw an Error of that kind whose sentence has every one of `parts`.
template <typename Action>
void expect_error(ErrorKind kind, std::initializer_list<std::string_view> parts, Action action) {
  try {
    action();
    ADD_FAILURE() << "nothing was thrown; expected a sentence with " << *parts.begin();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    for (const std::string_view part : parts) {
      EXPECT_NE(std::string_view(error.what()).find(part), std::string_view::npos)
          << "sentence: " << error.what() << "\nlacks: " << part;
    }
  }
}

inline std::string hexadecimal(std::string_view text) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string digits;
  for (const char letter : text) {
    const auto byte = static_cast<unsigned char>(letter);
    digits += {kDigits[byte >> 4], kDigits[byte & 15]};
  }
  return digits;
}

/// Compares every tensor of a file or checkpoint with what the writer of the fixture recorded.
inline void expect_contents(const std::string& fixture_name, const std::vector<TensorInfo>& tensors,
                            const std::function<HostTensor(std::size_t)>& read) {
  const auto expected = nlohmann::json::parse(read_file(fixture("expected.json"))).at(fixture_name);
  EXPECT_EQ(tensors.size(), expected.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const TensorInfo& info = tensors[i];
    SCOPED_TRACE(fixture_name + ": " + info.name);
    ASSERT_TRUE(expected.contains(info.name));
    const auto& tensor = expected.at(info.name);
    EXPECT_EQ(to_string(info.dtype), tensor.at("dtype").get<std::string>());
    EXPECT_EQ(info.shape, tensor.at("shape").get<std::vector<std::int64_t>>());
    const HostTensor contents = read(i);
    EXPECT_EQ(contents.data.size(), info.bytes());
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(contents.data.data()) % size_of(info.dtype), 0u);
    EXPECT_EQ(hexadecimal(text_of(contents)), tensor.at("data").get<std::string>());
  }
}

}  // namespace nibble
