#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "kernels/dispatch.h"
#include "models/checkpoint/byte_size.h"
#include "models/formats/format.h"
#include "nibble/error.h"

namespace nibble {
namespace {

/// First claim wins; the dense one claims whatever is floating point.
constexpr std::array<const Format*, 5> kFormats{&kBnb4bitFormat, &kBnbInt8Format, &kGptqFormat, &kAwqFormat,
                                                &kDenseFormat};

}  // namespace

const Format& format_of(const Checkpoint& checkpoint, const std::string& name) {
  for (const Format* format : kFormats) {
    if (format->claims(checkpoint, name)) return *format;
  }
  const TensorInfo* packed = checkpoint.find(name + ".qweight");
  const TensorInfo& info = packed != nullptr ? *packed : require_tensor(checkpoint, name + ".weight");
  throw Error(ErrorKind::kUnsupported,
              info.file.string() + ": tensor '" + info.name + "': expected floating-point weights, or quantized ones " +
                  "with the state that bitsandbytes, GPTQ or AWQ save, found " + std::string(to_string(info.dtype)) +
                  " " + shape_text(info.shape) + " without one that fits");
}

std::vector<OutputTensor> write_matrix(const Weight& weight, const std::string& name, DType dtype) {
  return with_layout(weight, [&](const auto& w) { return write_tensors(w, name, dtype); });
}

void fail_tensor(const TensorInfo& info, const std::string& expected, const std::string& found) {
  throw Error(ErrorKind::kFormat,
              info.file.string() + ": tensor '" + info.name + "': expected " + expected + ", found " + found);
}

const TensorInfo& require_tensor(const Checkpoint& checkpoint, const std::string& name, std::optional<DType> dtype,
                                 std::optional<std::int64_t> elements) {
  const TensorInfo* info = checkpoint.find(name);
  if (info == nullptr) throw Error(ErrorKind::kFormat, "the checkpoint has no tensor '" + name + "', which it needs");
  if (dtype && info->dtype != *dtype) {
    fail_tensor(*info, "dtype " + std::string(to_string(*dtype)), std::string(to_string(info->dtype)));
  }
  if (elements && info->elements() != *elements) {
    fail_tensor(*info, std::to_string(*elements) + " values", shape_text(info->shape));
  }
  return *info;
}

std::pair<std::int64_t, std::int64_t> require_matrix(const TensorInfo& info) {
  constexpr std::int64_t kLargest = std::numeric_limits<int>::max();
  const bool matrix = info.shape.size() == 2 && info.shape[0] > 0 && info.shape[1] > 0 && info.shape[0] <= kLargest &&
                      info.shape[1] <= kLargest;
  if (!matrix) fail_tensor(info, "a matrix", shape_text(info.shape));
  return {info.shape[0], info.shape[1]};
}

Buffer read_buffer(const Checkpoint& checkpoint, const TensorInfo& info) {
  HostTensor tensor = checkpoint.read(info);
  return Buffer::borrow(tensor.data, std::move(tensor.owner));
}

Buffer read_table(const Checkpoint& checkpoint, const TensorInfo& info) {
  Buffer table = read_buffer(checkpoint, info);
  const auto* values = table.as<float>();
  const bool finite =
      std::all_of(values, values + table.size() / sizeof(float), [](float value) { return std::isfinite(value); });
  if (!finite) fail_tensor(info, "finite levels", "a NaN or an infinity among them");
  return table;
}

}  // namespace nibble
