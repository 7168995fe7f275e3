// libFuzzer: any bytes as a checkpoint's data.pkl either give tensors that can be gathered from storages of the
// declared sizes or are refused with Error.
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "models/checkpoint/state_dict.h"
#include "nibble/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::uint64_t kLargestGathered = 1 << 16;
  try {
    for (const nibble::StateTensor& tensor : nibble::parse_state_dict(std::as_bytes(std::span(data, size)), "fuzz")) {
      if (tensor.storage_bytes > kLargestGathered) continue;
      const std::vector<std::byte> storage(tensor.storage_bytes);
      std::vector<std::byte> copy(tensor.info.bytes());
      nibble::gather(tensor, storage, copy);
      if (nibble::is_contiguous(tensor)) std::span(storage).subspan(tensor.offset, tensor.info.bytes());
    }
  } catch (const nibble::Error&) {
  }
  return 0;
}
