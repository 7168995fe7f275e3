// Where tests find what they read: where it was at build time or, on another machine, where the environment says.
#pragma once

#include <cstdlib>
#include <string>

namespace nibble {

/// The environment variable's value, or what the build knew under the same name.
inline std::string place(const char* variable, const char* built) {
  const char* value = std::getenv(variable);
  return value == nullptr ? built : value;
}

inline std::string fixtures_dir() { return place("NIBBLE_FIXTURES_DIR", NIBBLE_FIXTURES_DIR); }
inline std::string bundled_model() { return place("NIBBLE_BUNDLED_MODEL", NIBBLE_BUNDLED_MODEL); }
inline std::string shared_dir() { return place("NIBBLE_SHARED_DIR", NIBBLE_SHARED_DIR); }
inline std::string program() { return place("NIBBLE_CLI", NIBBLE_CLI); }

}  // namespace nibble
