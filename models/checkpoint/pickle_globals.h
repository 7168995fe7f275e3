// The complete list of names a checkpoint's pickle may mention, and what each stands for here. A name is looked up in
// this table and nowhere else: nothing is imported and nothing is called.
#pragma once

#include <optional>
#include <string_view>

#include "nibble/types.h"

namespace nibble {

struct PickleGlobal {
  enum class Role {
    kOrderedDict,  ///< a dict
    kTensor,       ///< (storage, offset, size, stride, ...): a view of a typed storage
    kTypedTensor,  ///< (storage, offset, size, stride, requires_grad, hooks, dtype, ...): a view of untyped bytes
    kParameter,    ///< (tensor, ...): the tensor
    kStorage,      ///< the type of a storage
    kElementType,  ///< torch.float16 and its kin
    kSize,         ///< (tuple): the tuple
    kIgnored,      ///< may occur beside tensors and means nothing to them
  };
  std::string_view module;
  std::string_view name;
  Role role;
  std::optional<DType> dtype;  ///< for kStorage and kElementType
};

/// The row of that name, or nullptr: the name is forbidden.
const PickleGlobal* find_pickle_global(std::string_view module, std::string_view name);

}  // namespace nibble
