#include "models/checkpoint/state_dict.h"

#include <cstring>
#include <set>
#include <string_view>
#include <utility>

#include "models/checkpoint/byte_size.h"
#include "models/checkpoint/pickle.h"
#include "models/checkpoint/quote.h"
#include "nibble/error.h"

namespace nibble {
namespace {

using Role = PickleGlobal::Role;

constexpr std::size_t kMaxRank = 8;
constexpr std::size_t kMaxEntries = 1'000'000;

struct StorageRef {
  std::string_view key;
  DType dtype;
  std::uint64_t bytes;
};

class StateDictReader {
 public:
  StateDictReader(const Pickle& pickle, const std::filesystem::path& file) : pickle_(pickle), file_(file) {}

  std::vector<StateTensor> read() {
    const PickleDict& dict = state_dict();
    if (dict.items.size() > kMaxEntries) {
      fail("data.pkl holds " + std::to_string(dict.items.size()) + " entries; at most " + std::to_string(kMaxEntries) +
           " are expected");
    }
    std::set<std::string_view> names;
    std::vector<StateTensor> tensors;
    for (const auto& [key, value] : dict.items) {
      const auto* const name = pickle_.get<std::string_view>(key);
      const PickleCall* const call = name ? tensor_call(value) : nullptr;
      if (!call) continue;
      if (!names.insert(*name).second) fail("data.pkl holds tensor " + quote(*name) + " twice");
      tensors.push_back(read_tensor(*name, *call));
    }
    return tensors;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorKind::kFormat, file_.string() + ": " + what);
  }

  [[noreturn]] void fail_tensor(std::string_view name, const std::string& what) const {
    fail("tensor " + quote(name) + " " + what);
  }

  // --- finding the state dict

  bool holds_tensors(const PickleDict& dict) const {
    for (const auto& [key, value] : dict.items) {
      if (pickle_.get<std::string_view>(key) && tensor_call(value)) return true;
    }
    return false;
  }

  const PickleDict& state_dict() const {
    const auto* const root = pickle_.get<PickleDict>(pickle_.root());
    if (!root) fail("data.pkl holds something that is not a dict; expected a state dict");
    if (holds_tensors(*root)) return *root;
    for (const std::string_view wanted : {"state_dict", "model", "module"}) {
      for (const auto& [key, value] : root->items) {
        const auto* const name = pickle_.get<std::string_view>(key);
        const auto* const dict = pickle_.get<PickleDict>(value);
        if (name && *name == wanted && dict && holds_tensors(*dict)) return *dict;
      }
    }
    fail("data.pkl holds no tensors, neither itself nor under 'state_dict', 'model' or 'module'");
  }

  /// The call that rebuilds a tensor, a parameter's wrapping taken off; nullptr when the value is not a tensor.
  const PickleCall* tensor_call(PickleRef value) const {
    const auto* call = pickle_.get<PickleCall>(value);
    if (call && call->callable->role == Role::kParameter) {
      const auto& arguments = arguments_of(*call);
      call = arguments.empty() ? nullptr : pickle_.get<PickleCall>(arguments.front());
    }
    const bool is_tensor =
        call && (call->callable->role == Role::kTensor || call->callable->role == Role::kTypedTensor);
    return is_tensor ? call : nullptr;
  }

  const std::vector<PickleRef>& arguments_of(const PickleCall& call) const {
    return pickle_.get<PickleTuple>(call.arguments)->items;
  }

  // --- one tensor

  StateTensor read_tensor(std::string_view name, const PickleCall& call) const {
    const auto& arguments = arguments_of(call);
    const bool typed = call.callable->role == Role::kTypedTensor;
    const std::size_t fewest = typed ? 7 : 6;  // the last one may be followed by metadata
    if (arguments.size() != fewest && arguments.size() != fewest + 1) {
      fail_tensor(
          name, "is rebuilt from " + std::to_string(arguments.size()) + " values; expected " + std::to_string(fewest));
    }
    const StorageRef storage = read_storage(name, arguments[0]);
    const DType dtype = typed ? read_dtype(name, arguments[6]) : storage.dtype;
    StateTensor tensor{{std::string(name), dtype, read_integers(name, "size", arguments[2]), file_},
                       read_integers(name, "stride", arguments[3]),
                       read_integer(name, "offset", arguments[1]),
                       std::string(storage.key),
                       storage.bytes};
    check_extent(tensor);
    return tensor;
  }

  StorageRef read_storage(std::string_view name, PickleRef ref) const {
    const auto* const persistent = pickle_.get<PicklePersistent>(ref);
    const auto* const id = persistent ? pickle_.get<PickleTuple>(persistent->id) : nullptr;
    if (!id || id->items.size() != 5) fail_tensor(name, "does not refer to a storage of the file");
    const auto* const tag = pickle_.get<std::string_view>(id->items[0]);
    const auto* const type = pickle_.get<const PickleGlobal*>(id->items[1]);
    const auto* const key = pickle_.get<std::string_view>(id->items[2]);
    if (!tag || *tag != "storage" || !type || (*type)->role != Role::kStorage || !key) {
      fail_tensor(name, "does not refer to a storage of the file");
    }
    const DType dtype = *(*type)->dtype;
    const std::int64_t elements = static_cast<std::int64_t>(read_integer(name, "storage length", id->items[4]));
    const auto bytes = byte_size(dtype, {&elements, 1});
    if (!bytes) fail_tensor(name, "has a storage of " + std::to_string(elements) + " elements, which is too large");
    return {*key, dtype, *bytes};
  }

  DType read_dtype(std::string_view name, PickleRef ref) const {
    const auto* const global = pickle_.get<const PickleGlobal*>(ref);
    if (!global || (*global)->role != Role::kElementType) fail_tensor(name, "has no element type");
    return *(*global)->dtype;
  }

  std::uint64_t read_integer(std::string_view name, const char* what, PickleRef ref) const {
    const auto* const value = pickle_.get<std::int64_t>(ref);
    if (!value) fail_tensor(name, std::string("has a ") + what + " that is not an integer");
    if (*value < 0) fail_tensor(name, std::string("has a negative ") + what + " of " + std::to_string(*value));
    return static_cast<std::uint64_t>(*value);
  }

  std::vector<std::int64_t> read_integers(std::string_view name, const char* what, PickleRef ref) const {
    const auto* const size = pickle_.get<PickleCall>(ref);
    if (size && size->callable->role == Role::kSize && arguments_of(*size).size() == 1) {
      ref = arguments_of(*size).front();
    }
    const auto* const tuple = pickle_.get<PickleTuple>(ref);
    if (!tuple) fail_tensor(name, std::string("has a ") + what + " that is not a tuple");
    if (tuple->items.size() > kMaxRank) {
      fail_tensor(name, std::string("has a ") + what + " of " + std::to_string(tuple->items.size()) +
                            " dimensions; at most " + std::to_string(kMaxRank) + " are expected");
    }
    std::vector<std::int64_t> values;
    for (const PickleRef item : tuple->items) {
      values.push_back(static_cast<std::int64_t>(read_integer(name, what, item)));
    }
    return values;
  }

  /// Every element must lie in the storage, and the tensor must not be larger than it: an expanded view (stride 0)
  /// could otherwise ask for any amount of memory. Turns the offset from elements into bytes.
  void check_extent(StateTensor& tensor) const {
    const TensorInfo& info = tensor.info;
    if (tensor.strides.size() != info.shape.size()) {
      fail_tensor(info.name, "has " + std::to_string(info.shape.size()) + " dimensions but " +
                                 std::to_string(tensor.strides.size()) + " strides");
    }
    const auto bytes = byte_size(info.dtype, info.shape);
    if (!bytes) fail_tensor(info.name, "of shape " + shape_text(info.shape) + " has more bytes than can be counted");
    std::uint64_t end = tensor.offset;
    bool overflow = false;
    for (std::size_t i = 0; i < info.shape.size() && *bytes > 0; ++i) {
      std::uint64_t reach = 0;
      overflow |= __builtin_mul_overflow(info.shape[i] - 1, tensor.strides[i], &reach);
      overflow |= __builtin_add_overflow(end, reach, &end);
    }
    overflow |= __builtin_add_overflow(end, *bytes > 0 ? 1 : 0, &end);
    overflow |= __builtin_mul_overflow(end, size_of(info.dtype), &end);
    if (*bytes > 0 && (overflow || end > tensor.storage_bytes)) {
      fail_tensor(info.name, "of shape " + shape_text(info.shape) + " and strides " + shape_text(tensor.strides) +
                                 " at offset " + std::to_string(tensor.offset) + " reaches beyond its storage of " +
                                 std::to_string(tensor.storage_bytes) + " bytes");
    }
    if (*bytes > tensor.storage_bytes) {
      throw Error(ErrorKind::kUnsupported, file_.string() + ": tensor " + quote(info.name) + " of shape " +
                                               shape_text(info.shape) + " repeats the elements of its storage of " +
                                               std::to_string(tensor.storage_bytes) +
                                               " bytes; save it with .contiguous() first");
    }
    tensor.offset = *bytes > 0 ? tensor.offset * size_of(info.dtype) : 0;
  }

  const Pickle& pickle_;
  const std::filesystem::path& file_;
};

void gather_dimension(const StateTensor& tensor, std::size_t dimension, const std::byte* from, std::byte*& to) {
  const std::size_t item = size_of(tensor.info.dtype);
  if (dimension == tensor.info.shape.size()) {
    std::memcpy(to, from, item);
    to += item;
    return;
  }
  const std::size_t stride = static_cast<std::size_t>(tensor.strides[dimension]) * item;
  for (std::int64_t i = 0; i < tensor.info.shape[dimension]; ++i) {
    gather_dimension(tensor, dimension + 1, from + static_cast<std::size_t>(i) * stride, to);
  }
}

}  // namespace

std::vector<StateTensor> parse_state_dict(std::span<const std::byte> pickle, const std::filesystem::path& file) {
  return StateDictReader(parse_pickle(pickle, file), file).read();
}

void gather(const StateTensor& tensor, std::span<const std::byte> storage, std::span<std::byte> to) {
  if (to.empty()) return;
  std::byte* position = to.data();
  gather_dimension(tensor, 0, storage.data() + tensor.offset, position);
}

bool is_contiguous(const StateTensor& tensor) {
  if (tensor.info.bytes() == 0) return true;
  std::int64_t expected = 1;
  for (std::size_t i = tensor.strides.size(); i > 0; --i) {
    if (tensor.info.shape[i - 1] == 1) continue;
    if (tensor.strides[i - 1] != expected) return false;
    expected *= tensor.info.shape[i - 1];
  }
  return true;
}

}  // namespace nibble
