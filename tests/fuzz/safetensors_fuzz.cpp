// libFuzzer: any bytes as a safetensors file either parse into tensors that lie within it or are refused with Error.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "models/checkpoint/safetensors_header.h"
#include "nibble/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    for (const nibble::SafetensorsEntry& entry :
         nibble::parse_safetensors_header(std::as_bytes(std::span(data, size)), "fuzz")) {
      if (entry.offset > size || entry.info.bytes() > size - entry.offset) std::abort();
    }
  } catch (const nibble::Error&) {
  }
  return 0;
}
