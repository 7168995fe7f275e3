// The golden data in tests/golden/kernels: JSON whose arrays are the hexadecimal text of their bytes.
#pragma once

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/buffer.h"
#include "tests/places.h"

namespace nibble {

using Json = nlohmann::json;

inline Json read_golden(const std::string& name) {
  std::ifstream file(fixtures_dir() + "/kernels/" + name);
  return Json::parse(file);
}

inline int nibble_of(char digit) { return digit <= '9' ? digit - '0' : digit - 'a' + 10; }

template <class T>
std::vector<T> array_of(const Json& hex) {
  const auto& text = hex.get_ref<const std::string&>();
  std::vector<T> values(text.size() / 2 / sizeof(T));
  auto* bytes = reinterpret_cast<unsigned char*>(values.data());
  for (std::size_t i = 0; i < text.size() / 2; ++i) {
    bytes[i] = static_cast<unsigned char>(nibble_of(text[2 * i]) << 4 | nibble_of(text[2 * i + 1]));
  }
  return values;
}

template <class T>
Buffer copied(const std::vector<T>& values) {
  Buffer buffer = Buffer::allocate(values.size() * sizeof(T));
  std::memcpy(buffer.mutable_as<T>(), values.data(), buffer.size());
  return buffer;
}

}  // namespace nibble
