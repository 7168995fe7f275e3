// 4-bit checkpoints of transformers + bitsandbytes, one linear layer X of n*k weights in blocks of b:
//   X.weight                               codes, two a byte, [ceil(n*k/2), 1] in uint8 (or the same bytes in another
//                                          bnb_4bit_quant_storage dtype, with fewer rows)
//   X.weight.absmax                        F32 [ceil(n*k/b)], or U8 when nested
//   X.weight.quant_map                     F32 [16], the levels
//   X.weight.nested_absmax                 F32 [ceil(blocks/256)]          nested only
//   X.weight.nested_quant_map              F32 [256]                       nested only
//   X.weight.quant_state.bitsandbytes__nf4 U8, JSON: quant_type, blocksize, dtype, shape, nested_*    (or __fp4)
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "models/checkpoint/json.h"
#include "models/formats/format.h"
#include "nibble/error.h"

namespace nibble {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kStateKey = ".weight.quant_state.bitsandbytes__";

/// The JSON beside the codes.
struct QuantState {
  Storage storage;
  std::int64_t n, k;
  float nested_offset;

  std::int64_t elements() const { return n * k; }
  std::int64_t blocks() const { return (elements() + storage.blocksize - 1) / storage.blocksize; }
};

const TensorInfo* find_state(const Checkpoint& checkpoint, const std::string& name) {
  const TensorInfo* nf4 = checkpoint.find(name + std::string(kStateKey) + "nf4");
  return nf4 != nullptr ? nf4 : checkpoint.find(name + std::string(kStateKey) + "fp4");
}

const Json& field(const TensorInfo& info, const Json& state, const char* key) {
  const auto it = state.find(key);
  if (it == state.end()) fail_tensor(info, std::string("a key '") + key + "'", show_json(state));
  return *it;
}

std::int64_t whole_number(const TensorInfo& info, const char* key, const Json& value) {
  if (!value.is_number_integer() || value.get<std::int64_t>() < 1 || value.get<std::int64_t>() > 1 << 30) {
    fail_tensor(info, std::string(key) + " to be a positive whole number", show_json(value));
  }
  return value.get<std::int64_t>();
}

Scheme scheme_of(const TensorInfo& info, const Json& state) {
  const bool nested = state.contains("nested_blocksize");
  const Json& type = field(info, state, "quant_type");
  if (type == "nf4") return nested ? Scheme::kNf4Dq : Scheme::kNf4;
  if (type == "fp4") return nested ? Scheme::kFp4Dq : Scheme::kFp4;
  fail_tensor(info, "quant_type \"nf4\" or \"fp4\"", show_json(type));
}

int blocksize_of(const TensorInfo& info, const Json& state) {
  const std::int64_t blocksize = whole_number(info, "blocksize", field(info, state, "blocksize"));
  if (blocksize < 32 || blocksize > 4096 || (blocksize & (blocksize - 1)) != 0) {
    fail_tensor(info, "a blocksize that is a power of two from 32 to 4096", std::to_string(blocksize));
  }
  return static_cast<int>(blocksize);
}

float nested_offset_of(const TensorInfo& info, const Json& state) {
  const std::int64_t nested = whole_number(info, "nested_blocksize", field(info, state, "nested_blocksize"));
  if (nested != NestedScale::kBlocksize) fail_tensor(info, "nested_blocksize 256", std::to_string(nested));
  const Json& offset = field(info, state, "nested_offset");
  if (!offset.is_number()) fail_tensor(info, "nested_offset to be a number", show_json(offset));
  return offset.get<float>();
}

QuantState parse_state(const TensorInfo& info, std::string_view text) {
  const auto state = parse_json<Json>(text, info.file.string() + ": tensor '" + info.name + "'");
  const Json& dtype = field(info, state, "dtype");
  const auto known = dtype.is_string() ? parse_compute_dtype(dtype.get<std::string>()) : std::nullopt;
  if (!known) fail_tensor(info, "dtype float32, float16 or bfloat16", show_json(dtype));
  const Json& shape = field(info, state, "shape");
  if (!shape.is_array() || shape.size() != 2) fail_tensor(info, "a shape of two numbers", show_json(shape));
  const Scheme scheme = scheme_of(info, state);
  return {{scheme, *known, blocksize_of(info, state)},
          whole_number(info, "shape", shape[0]),
          whole_number(info, "shape", shape[1]),
          is_nested(scheme) ? nested_offset_of(info, state) : 0.0F};
}

QuantState read_state(const Checkpoint& checkpoint, const std::string& name) {
  const TensorInfo& info = *find_state(checkpoint, name);
  if (info.dtype != DType::kU8) fail_tensor(info, "uint8", std::string(to_string(info.dtype)));
  const Buffer text = read_buffer(checkpoint, info);
  return parse_state(info, {text.as<char>(), text.size()});
}

bool claims(const Checkpoint& checkpoint, const std::string& name) { return find_state(checkpoint, name) != nullptr; }

MatrixInfo describe(const Checkpoint& checkpoint, const std::string& name) {
  const QuantState state = read_state(checkpoint, name);
  const TensorInfo& weight = require_tensor(checkpoint, name + ".weight");
  return {state.storage, state.n, state.k, weight.shape, std::string(to_string(weight.dtype))};
}

Buffer read_codes(const Checkpoint& checkpoint, const std::string& name, const QuantState& state) {
  const TensorInfo& weight = require_tensor(checkpoint, name + ".weight");
  const auto packed = static_cast<std::uint64_t>((state.elements() + 1) / 2);
  if (weight.bytes() != packed) {
    fail_tensor(weight, std::to_string(packed) + " bytes of packed codes", std::to_string(weight.bytes()));
  }
  return read_buffer(checkpoint, weight);
}

/// The levels as the file has them, which must be those of its quant_type (to the last bits, in which releases differ).
Buffer read_levels(const Checkpoint& checkpoint, const std::string& name, Scheme scheme) {
  const TensorInfo& info = require_tensor(checkpoint, name + ".weight.quant_map", DType::kF32, 16);
  const Buffer levels = read_table(checkpoint, info);
  const bool nf4 = scheme == Scheme::kNf4 || scheme == Scheme::kNf4Dq;
  const auto& expected = nf4 ? kNf4Levels : kFp4Levels;
  const bool close = std::equal(expected.begin(), expected.end(), levels.as<float>(),
                                [](float a, float b) { return std::abs(a - b) < 1e-6F; });
  if (!close) fail_tensor(info, std::string("the levels of ") + (nf4 ? "nf4" : "fp4"), "others");
  return levels;
}

NestedScale read_nested(const Checkpoint& checkpoint, const std::string& name, const QuantState& state) {
  const std::int64_t nested_blocks = (state.blocks() + NestedScale::kBlocksize - 1) / NestedScale::kBlocksize;
  const auto require = [&](const char* suffix, DType dtype, std::int64_t elements) -> const TensorInfo& {
    return require_tensor(checkpoint, name + suffix, dtype, elements);
  };
  return {read_buffer(checkpoint, require(".weight.absmax", DType::kU8, state.blocks())),
          read_buffer(checkpoint, require(".weight.nested_absmax", DType::kF32, nested_blocks)),
          read_table(checkpoint, require(".weight.nested_quant_map", DType::kF32, 256)), state.nested_offset};
}

Weight read(const Checkpoint& checkpoint, const std::string& name) {
  const QuantState state = read_state(checkpoint, name);
  const Buffer codes = read_codes(checkpoint, name, state);
  const Buffer levels = read_levels(checkpoint, name, state.storage.scheme);
  const auto n = static_cast<int>(state.n);
  const auto k = static_cast<int>(state.k);
  if (is_nested(state.storage.scheme)) {
    return Lut4<NestedScale>{codes, levels, read_nested(checkpoint, name, state), state.storage.blocksize, n, k};
  }
  const TensorInfo& absmax = require_tensor(checkpoint, name + ".weight.absmax", DType::kF32, state.blocks());
  return Lut4<F32Scale>{codes, levels, {read_buffer(checkpoint, absmax)}, state.storage.blocksize, n, k};
}

/// A double as Python's repr() writes it, so that files equal those of bitsandbytes to the byte.
std::string python_repr(double value) {
  char text[32];
  const auto scientific = std::to_chars(text, text + sizeof text, value, std::chars_format::scientific);
  const std::string shortest(text, scientific.ptr);
  const int exponent = std::atoi(shortest.c_str() + shortest.find('e') + 1);
  if (exponent < -4 || exponent >= 16) return shortest;
  const auto fixed = std::to_chars(text, text + sizeof text, value, std::chars_format::fixed);
  const std::string plain(text, fixed.ptr);
  return plain.find('.') == std::string::npos ? plain + ".0" : plain;
}

std::string torch_name(DType dtype) {
  return dtype == DType::kF32 ? "float32" : dtype == DType::kF16 ? "float16" : "bfloat16";
}

/// The JSON as Python's json.dumps writes it.
std::string state_json(std::string_view quant_type, int blocksize, DType dtype, int n, int k) {
  return "{\"quant_type\": \"" + std::string(quant_type) + "\", \"blocksize\": " + std::to_string(blocksize) +
         ", \"dtype\": \"" + torch_name(dtype) + "\", \"shape\": [" + std::to_string(n) + ", " + std::to_string(k) +
         "]";
}

std::string nested_json(const NestedScale& scale) {
  return ", \"nested_blocksize\": " + std::to_string(NestedScale::kBlocksize) +
         ", \"nested_dtype\": \"float32\", \"nested_offset\": " + python_repr(scale.offset);
}

std::string nested_json(const F32Scale&) { return ""; }

std::vector<OutputTensor> scale_tensors(const F32Scale& scale, const std::string& name) {
  const auto blocks = static_cast<std::int64_t>(scale.absmax.size() / sizeof(float));
  return {{{name + ".weight.absmax", DType::kF32, {blocks}, {}}, scale.absmax}};
}

std::vector<OutputTensor> scale_tensors(const NestedScale& scale, const std::string& name) {
  const auto blocks = static_cast<std::int64_t>(scale.absmax.size());
  const auto nested = static_cast<std::int64_t>(scale.nested_absmax.size() / sizeof(float));
  return {{{name + ".weight.absmax", DType::kU8, {blocks}, {}}, scale.absmax},
          {{name + ".weight.nested_absmax", DType::kF32, {nested}, {}}, scale.nested_absmax},
          {{name + ".weight.nested_quant_map", DType::kF32, {256}, {}}, scale.nested_table}};
}

template <class Scale>
std::vector<OutputTensor> output(const Lut4<Scale>& w, const std::string& name, DType dtype) {
  const Scheme scheme = storage_of(w, dtype).scheme;
  const std::string_view type = scheme == Scheme::kNf4 || scheme == Scheme::kNf4Dq ? "nf4" : "fp4";
  const std::string json = state_json(type, w.blocksize, dtype, w.n, w.k) + nested_json(w.scale) + "}";
  Buffer text = Buffer::allocate(json.size());
  std::memcpy(text.mutable_as<char>(), json.data(), json.size());

  std::vector<OutputTensor> tensors = scale_tensors(w.scale, name);
  const auto packed = static_cast<std::int64_t>(w.codes.size());
  tensors.push_back({{name + ".weight", DType::kU8, {packed, 1}, {}}, w.codes});
  tensors.push_back({{name + ".weight.quant_map", DType::kF32, {16}, {}}, w.levels});
  tensors.push_back(
      {{name + std::string(kStateKey) + std::string(type), DType::kU8, {static_cast<std::int64_t>(json.size())}, {}},
       text});
  return tensors;
}

}  // namespace

const Format kBnb4bitFormat{"bitsandbytes 4-bit", claims, describe, read};

std::vector<OutputTensor> write_tensors(const Lut4<F32Scale>& weight, const std::string& name, DType dtype) {
  return output(weight, name, dtype);
}

std::vector<OutputTensor> write_tensors(const Lut4<NestedScale>& weight, const std::string& name, DType dtype) {
  return output(weight, name, dtype);
}

}  // namespace nibble
