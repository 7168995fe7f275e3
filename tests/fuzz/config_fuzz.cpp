// config.json and generation_config.json: any bytes give a configuration or one nibble::Error.
#include <cstdint>
#include <string_view>

#include "models/config.h"
#include "nibble/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    nibble::parse_config(text, "config.json");
  } catch (const nibble::Error&) {
  }
  try {
    nibble::parse_generation_config(text, "generation_config.json");
  } catch (const nibble::Error&) {
  }
  return 0;
}
