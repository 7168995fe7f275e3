// LLM.int8() checkpoints of transformers + bitsandbytes, one linear layer X:
//   X.weight         I8  [n, k]   round(w * 127 / SCB[row])
//   X.SCB            F32 [n]      absmax of the row
//   X.weight_format  U8  scalar   0: row-major. Releases before 0.45 could save GPU tile orders (1 to 3).
#include "models/checkpoint/byte_size.h"
#include "models/formats/format.h"
#include "nibble/error.h"

namespace nibble {
namespace {

bool claims(const Checkpoint& checkpoint, const std::string& name) {
  const TensorInfo* weight = checkpoint.find(name + ".weight");
  return weight != nullptr && weight->dtype == DType::kI8 && checkpoint.find(name + ".SCB") != nullptr;
}

MatrixInfo describe(const Checkpoint& checkpoint, const std::string& name) {
  const TensorInfo& weight = require_tensor(checkpoint, name + ".weight", DType::kI8);
  const auto [n, k] = require_matrix(weight);
  return {{Scheme::kInt8, DType::kF16, 0}, n, k, weight.shape, "int8"};
}

void require_row_major(const Checkpoint& checkpoint, const std::string& name) {
  const TensorInfo* format = checkpoint.find(name + ".weight_format");
  if (format == nullptr) return;
  const Buffer value = read_buffer(checkpoint, *format);
  if (format->dtype != DType::kU8 || value.size() != 1) {
    fail_tensor(*format, "one uint8", std::string(to_string(format->dtype)) + " " + shape_text(format->shape));
  }
  const int order = *value.as<std::uint8_t>();
  if (order != 0) {
    throw Error(ErrorKind::kUnsupported, format->file.string() + ": tensor '" + format->name +
                                             "': expected 0 (row-major), found " + std::to_string(order) +
                                             ", a GPU tile order of an old bitsandbytes; save the checkpoint again " +
                                             "with bitsandbytes 0.45 or later");
  }
}

Weight read(const Checkpoint& checkpoint, const std::string& name) {
  const TensorInfo& weight = require_tensor(checkpoint, name + ".weight", DType::kI8);
  const auto [n, k] = require_matrix(weight);
  require_row_major(checkpoint, name);
  const TensorInfo& scb = require_tensor(checkpoint, name + ".SCB", DType::kF32, n);
  return Int8Row{read_buffer(checkpoint, weight), read_buffer(checkpoint, scb), static_cast<int>(n),
                 static_cast<int>(k)};
}

}  // namespace

const Format kBnbInt8Format{"bitsandbytes int8", claims, describe, read};

std::vector<OutputTensor> write_tensors(const Int8Row& weight, const std::string& name, DType) {
  Buffer row_major = Buffer::allocate(1);
  *row_major.mutable_as<std::uint8_t>() = 0;
  return {{{name + ".weight", DType::kI8, {weight.n, weight.k}, {}}, weight.codes},
          {{name + ".SCB", DType::kF32, {weight.n}, {}}, weight.scb},
          {{name + ".weight_format", DType::kU8, {}, {}}, row_major}};
}

}  // namespace nibble
