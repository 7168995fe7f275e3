// How tools name and pack the tensors of one linear layer in a file. A format is one row of the table in formats.cpp:
// it says which layers are its own, what they are and how they are read; what a layout is written as is one overload of
// write_tensors. Layouts (kernels/layout/) know nothing of names.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/storage.h"
#include "models/checkpoint/checkpoint.h"

namespace nibble {

/// What a file says of a matrix before its weights are read.
struct MatrixInfo {
  Storage storage;
  std::int64_t n, k;
  std::vector<std::int64_t> stored_shape;  ///< of the tensor that holds the weights
  std::string stored_dtype;
};

/// A tensor on its way into a file.
struct OutputTensor {
  TensorInfo info;
  Buffer data;
};

struct Format {
  std::string_view name;
  /// Whether this format packed matrix `name` (without ".weight"), from the names, dtypes and shapes of tensors.
  bool (*claims)(const Checkpoint& checkpoint, const std::string& name);
  /// Reads no weights, only the state beside them that tells their scheme.
  MatrixInfo (*describe)(const Checkpoint& checkpoint, const std::string& name);
  Weight (*read)(const Checkpoint& checkpoint, const std::string& name);
};

/// The format of a matrix of this checkpoint, which must have a tensor `name`.weight or `name`.qweight. Throws Error
/// naming it when no format claims it.
const Format& format_of(const Checkpoint& checkpoint, const std::string& name);

extern const Format kDenseFormat;
extern const Format kBnbInt8Format;
extern const Format kBnb4bitFormat;
extern const Format kGptqFormat;
extern const Format kAwqFormat;

/// The tensors that hold matrix `name` in a file that transformers loads, with bitsandbytes or AutoGPTQ. `dtype` is
/// what the weights had before they were quantized.
std::vector<OutputTensor> write_matrix(const Weight& weight, const std::string& name, DType dtype);
std::vector<OutputTensor> write_tensors(const Dense<float>& weight, const std::string& name, DType dtype);
std::vector<OutputTensor> write_tensors(const Dense<Half>& weight, const std::string& name, DType dtype);
std::vector<OutputTensor> write_tensors(const Dense<BFloat16>& weight, const std::string& name, DType dtype);
std::vector<OutputTensor> write_tensors(const Int8Row& weight, const std::string& name, DType dtype);
std::vector<OutputTensor> write_tensors(const Lut4<F32Scale>& weight, const std::string& name, DType dtype);
std::vector<OutputTensor> write_tensors(const Lut4<NestedScale>& weight, const std::string& name, DType dtype);
std::vector<OutputTensor> write_tensors(const Int4Group<SymmetricZero>& weight, const std::string& name, DType dtype);
std::vector<OutputTensor> write_tensors(const Int4Group<ZeroPoints>& weight, const std::string& name, DType dtype);

// What formats share.

/// The tensor of that name. Throws Error{kFormat} naming it when it is absent, or not of this dtype or element count
/// (either check only where given).
const TensorInfo& require_tensor(const Checkpoint& checkpoint, const std::string& name, std::optional<DType> dtype = {},
                                 std::optional<std::int64_t> elements = {});
/// Its shape as rows and columns. Throws Error{kFormat} unless it has two dimensions that fit an int.
std::pair<std::int64_t, std::int64_t> require_matrix(const TensorInfo& info);
/// Its contents, sharing the checkpoint's memory.
Buffer read_buffer(const Checkpoint& checkpoint, const TensorInfo& info);
/// The same for a table of fp32 levels. Throws Error{kFormat} when one is NaN or infinite.
Buffer read_table(const Checkpoint& checkpoint, const TensorInfo& info);
/// "FILE: tensor 'NAME': expected …, found …" as an Error{kFormat}.
[[noreturn]] void fail_tensor(const TensorInfo& info, const std::string& expected, const std::string& found);

}  // namespace nibble
