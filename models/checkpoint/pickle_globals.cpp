// The names are those of torch/_weights_only_unpickler.py that a state dict of plain tensors uses.
#include "models/checkpoint/pickle_globals.h"

#include <algorithm>
#include <array>

namespace nibble {
namespace {

using Role = PickleGlobal::Role;

constexpr auto kGlobals = std::to_array<PickleGlobal>({
    {"collections", "OrderedDict", Role::kOrderedDict, {}},
    {"torch._utils", "_rebuild_tensor_v2", Role::kTensor, {}},
    {"torch._utils", "_rebuild_tensor_v3", Role::kTypedTensor, {}},
    {"torch._utils", "_rebuild_parameter", Role::kParameter, {}},
    {"torch._utils", "_rebuild_parameter_with_state", Role::kParameter, {}},
    {"torch.nn.parameter", "Parameter", Role::kParameter, {}},
    {"torch", "FloatStorage", Role::kStorage, DType::kF32},
    {"torch", "HalfStorage", Role::kStorage, DType::kF16},
    {"torch", "BFloat16Storage", Role::kStorage, DType::kBF16},
    {"torch", "DoubleStorage", Role::kStorage, DType::kF64},
    {"torch", "LongStorage", Role::kStorage, DType::kI64},
    {"torch", "IntStorage", Role::kStorage, DType::kI32},
    {"torch", "ShortStorage", Role::kStorage, DType::kI16},
    {"torch", "CharStorage", Role::kStorage, DType::kI8},
    {"torch", "ByteStorage", Role::kStorage, DType::kU8},
    {"torch", "BoolStorage", Role::kStorage, DType::kBool},
    {"torch", "UntypedStorage", Role::kStorage, DType::kU8},
    {"torch.storage", "UntypedStorage", Role::kStorage, DType::kU8},
    {"torch", "float32", Role::kElementType, DType::kF32},
    {"torch", "float16", Role::kElementType, DType::kF16},
    {"torch", "bfloat16", Role::kElementType, DType::kBF16},
    {"torch", "float64", Role::kElementType, DType::kF64},
    {"torch", "int64", Role::kElementType, DType::kI64},
    {"torch", "int32", Role::kElementType, DType::kI32},
    {"torch", "int16", Role::kElementType, DType::kI16},
    {"torch", "int8", Role::kElementType, DType::kI8},
    {"torch", "uint64", Role::kElementType, DType::kU64},
    {"torch", "uint32", Role::kElementType, DType::kU32},
    {"torch", "uint16", Role::kElementType, DType::kU16},
    {"torch", "uint8", Role::kElementType, DType::kU8},
    {"torch", "bool", Role::kElementType, DType::kBool},
    {"torch", "Size", Role::kSize, {}},
    {"torch", "device", Role::kIgnored, {}},
    {"torch.serialization", "_get_layout", Role::kIgnored, {}},
});

}  // namespace

const PickleGlobal* find_pickle_global(std::string_view module, std::string_view name) {
  const auto row = std::ranges::find_if(
      kGlobals, [&](const PickleGlobal& global) { return global.module == module && global.name == name; });
  return row == kGlobals.end() ? nullptr : &*row;
}

}  // namespace nibble
