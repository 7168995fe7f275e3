#include "models/checkpoint/pickle.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <string>

#include "models/checkpoint/quote.h"
#include "nibble/error.h"

namespace nibble {
namespace {

/// Opcodes, with the names and codes of CPython's Lib/pickletools.py.
enum class Op : std::uint8_t {
  kProto = 0x80,
  kFrame = 0x95,
  kStop = '.',
  kNone = 'N',
  kNewTrue = 0x88,
  kNewFalse = 0x89,
  kBinInt = 'J',
  kBinInt1 = 'K',
  kBinInt2 = 'M',
  kLong1 = 0x8a,
  kBinFloat = 'G',
  kBinUnicode = 'X',
  kShortBinUnicode = 0x8c,
  kBinUnicode8 = 0x8d,
  kShortBinString = 'U',
  kBinBytes = 'B',
  kShortBinBytes = 'C',
  kMark = '(',
  kEmptyTuple = ')',
  kTuple = 't',
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kEmptyList = ']',
  kAppend = 'a',
  kAppends = 'e',
  kEmptyDict = '}',
  kSetItem = 's',
  kSetItems = 'u',
  kEmptySet = 0x8f,
  kBinGet = 'h',
  kLongBinGet = 'j',
  kBinPut = 'q',
  kLongBinPut = 'r',
  kMemoize = 0x94,
  kGlobal = 'c',
  kStackGlobal = 0x93,
  kNewObj = 0x81,
  kReduce = 'R',
  kBuild = 'b',
  kBinPersId = 'Q',
};

constexpr std::uint8_t kNewestProtocol = 5;

class Interpreter {
 public:
  Interpreter(std::span<const std::byte> bytes, const std::filesystem::path& file) : bytes_(bytes), file_(file) {}

  Pickle run() {
    if (bytes_.size() > kMaxPickleBytes) fail("is larger than " + std::to_string(kMaxPickleBytes) + " bytes");
    if (bytes_.empty() || Op{number<std::uint8_t>()} != Op::kProto)
      fail("does not begin as a pickle of protocol 2 or later");
    check_protocol();
    for (;;) {
      const Op op{number<std::uint8_t>()};
      if (op == Op::kStop) break;
      if (++operations_ > kMaxPickleOperations) {
        fail("has more than " + std::to_string(kMaxPickleOperations) + " operations");
      }
      if (!constant(op) && !container(op) && !memo(op) && !object(op)) {
        fail("uses the pickle operation 0x" + hex(static_cast<unsigned char>(op)) +
             ", which a state dict never needs; refusing to read it");
      }
    }
    if (!marks_.empty() || stack_.size() != 1) fail("does not end with exactly one value");
    return Pickle(std::move(values_), stack_.front());
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorKind::kFormat, file_.string() + ": data.pkl " + what);
  }

  // --- reading bytes

  std::string_view take(std::uint64_t count) {
    if (count > bytes_.size() - position_) {
      fail("ends in the middle of an operation: " + std::to_string(count) + " bytes expected at byte " +
           std::to_string(position_) + ", " + std::to_string(bytes_.size() - position_) + " left");
    }
    const std::string_view text(reinterpret_cast<const char*>(bytes_.data()) + position_, count);
    position_ += count;
    return text;
  }

  template <typename T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof(T)).data(), sizeof(T));
    return value;
  }

  std::string_view line() {
    const std::string_view rest(reinterpret_cast<const char*>(bytes_.data()) + position_, bytes_.size() - position_);
    const std::size_t length = rest.find('\n');
    if (length == std::string_view::npos) fail("ends in the middle of a name");
    position_ += length + 1;
    return rest.substr(0, length);
  }

  void check_protocol() {
    const auto protocol = number<std::uint8_t>();
    if (protocol < 2 || protocol > kNewestProtocol) {
      fail("says it is a pickle of protocol " + std::to_string(protocol) + "; expected 2 to 5");
    }
  }

  /// LONG1: a two's complement integer of any length, least significant byte first.
  std::int64_t long_integer() {
    const std::string_view digits = take(number<std::uint8_t>());
    if (digits.size() > sizeof(std::int64_t)) {
      fail("holds an integer of " + std::to_string(digits.size()) + " bytes; at most 8 are expected");
    }
    const bool negative = !digits.empty() && (digits.back() & 0x80) != 0;
    std::int64_t value = negative ? -1 : 0;
    std::memcpy(&value, digits.data(), digits.size());
    return value;
  }

  double big_endian_double() {
    std::array<char, sizeof(double)> text;
    std::ranges::reverse_copy(take(text.size()), text.begin());
    return std::bit_cast<double>(text);
  }

  // --- the stack

  bool push(PickleValue value) {
    values_.push_back(std::move(value));
    stack_.push_back(static_cast<PickleRef>(values_.size() - 1));
    return true;
  }

  PickleRef top() const {
    if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) fail("takes a value from an empty stack");
    return stack_.back();
  }

  PickleRef pop() {
    const PickleRef ref = top();
    stack_.pop_back();
    return ref;
  }

  std::vector<PickleRef> pop_last(std::size_t count) {
    std::vector<PickleRef> items(count);
    for (std::size_t i = count; i > 0; --i) items[i - 1] = pop();
    return items;
  }

  std::vector<PickleRef> pop_to_mark() {
    if (marks_.empty()) fail("ends a sequence that was never begun");
    const auto first = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<PickleRef> items(first, stack_.end());
    stack_.erase(first, stack_.end());
    marks_.pop_back();
    return items;
  }

  /// The value on top of the stack, which must be a T.
  template <typename T>
  T& target(const char* what) {
    T* const value = std::get_if<T>(&values_[top()]);
    if (!value) fail(std::string("adds items to something that is not a ") + what);
    return *value;
  }

  // --- groups of operations; each returns whether `op` belongs to it

  bool constant(Op op) {
    switch (op) {
      case Op::kNone:
        return push(PickleNone{});
      case Op::kNewTrue:
        return push(true);
      case Op::kNewFalse:
        return push(false);
      case Op::kBinInt:
        return push(std::int64_t{number<std::int32_t>()});
      case Op::kBinInt1:
        return push(std::int64_t{number<std::uint8_t>()});
      case Op::kBinInt2:
        return push(std::int64_t{number<std::uint16_t>()});
      case Op::kLong1:
        return push(long_integer());
      case Op::kBinFloat:
        return push(big_endian_double());
      case Op::kBinUnicode:
        return push(take(number<std::uint32_t>()));
      case Op::kShortBinUnicode:
      case Op::kShortBinString:
        return push(take(number<std::uint8_t>()));
      case Op::kBinUnicode8:
        return push(take(number<std::uint64_t>()));
      case Op::kBinBytes:
        take(number<std::uint32_t>());
        return push(PickleBytes{});
      case Op::kShortBinBytes:
        take(number<std::uint8_t>());
        return push(PickleBytes{});
      default:
        return false;
    }
  }

  bool container(Op op) {
    switch (op) {
      case Op::kMark:
        marks_.push_back(stack_.size());
        return true;
      case Op::kEmptySet:  // no operation that fills a set is known here, so it stays an empty sequence
      case Op::kEmptyTuple:
        return push(PickleTuple{});
      case Op::kTuple:
        return push(PickleTuple{pop_to_mark()});
      case Op::kTuple1:
        return push(PickleTuple{pop_last(1)});
      case Op::kTuple2:
        return push(PickleTuple{pop_last(2)});
      case Op::kTuple3:
        return push(PickleTuple{pop_last(3)});
      case Op::kEmptyList:
        return push(PickleList{});
      case Op::kAppend:
        return append(pop_last(1));
      case Op::kAppends:
        return append(pop_to_mark());
      case Op::kEmptyDict:
        return push(PickleDict{});
      case Op::kSetItem:
        return set_items(pop_last(2));
      case Op::kSetItems:
        return set_items(pop_to_mark());
      default:
        return false;
    }
  }

  bool memo(Op op) {
    switch (op) {
      case Op::kBinGet:
        return recall(number<std::uint8_t>());
      case Op::kLongBinGet:
        return recall(number<std::uint32_t>());
      case Op::kBinPut:
        return remember(number<std::uint8_t>());
      case Op::kLongBinPut:
        return remember(number<std::uint32_t>());
      case Op::kMemoize:
        return remember(memo_.size());
      default:
        return false;
    }
  }

  bool object(Op op) {
    switch (op) {
      case Op::kProto:
        check_protocol();
        return true;
      case Op::kFrame:
        number<std::uint64_t>();
        return true;  // a hint for buffering
      case Op::kGlobal: {
        const std::string_view module = line();
        return push_global(module, line());
      }
      case Op::kStackGlobal:
        return stack_global();
      case Op::kNewObj:
      case Op::kReduce:
        return call();
      case Op::kBuild:
        return build();
      case Op::kBinPersId:
        return push(PicklePersistent{pop()});
      default:
        return false;
    }
  }

  // --- single operations

  bool append(const std::vector<PickleRef>& items) {
    auto& list = target<PickleList>("list").items;
    list.insert(list.end(), items.begin(), items.end());
    return true;
  }

  bool set_items(const std::vector<PickleRef>& items) {
    auto& dict = target<PickleDict>("dict").items;
    if (items.size() % 2 != 0) fail("sets a key without a value");
    for (std::size_t i = 0; i < items.size(); i += 2) dict.emplace_back(items[i], items[i + 1]);
    return true;
  }

  bool recall(std::uint64_t index) {
    if (index >= memo_.size() || !memo_[index])
      fail("recalls value " + std::to_string(index) + ", which it never kept");
    stack_.push_back(*memo_[index]);
    return true;
  }

  bool remember(std::uint64_t index) {
    // Picklers number what they keep from zero, so an index cannot exceed the operations so far.
    if (index > operations_) {
      fail("keeps a value under the number " + std::to_string(index) + " after only " + std::to_string(operations_) +
           " operations");
    }
    if (index >= memo_.size()) memo_.resize(index + 1);
    memo_[index] = top();
    return true;
  }

  bool push_global(std::string_view module, std::string_view name) {
    const PickleGlobal* const global = find_pickle_global(module, name);
    if (!global) {
      fail("asks for " + quote(std::string(module) + "." + std::string(name)) +
           ", which a state dict never needs; refusing to read it");
    }
    return push(global);
  }

  bool stack_global() {
    const auto* const name = std::get_if<std::string_view>(&values_[pop()]);
    const auto* const module = std::get_if<std::string_view>(&values_[pop()]);
    if (!name || !module) fail("asks for a name that is not a string");
    return push_global(*module, *name);
  }

  bool call() {
    const PickleRef tuple = pop();
    const auto* const arguments = std::get_if<PickleTuple>(&values_[tuple]);
    const auto* const callable = std::get_if<const PickleGlobal*>(&values_[pop()]);
    if (!callable) fail("calls something that is not a known name; refusing to read it");
    if (!arguments) fail("calls " + quote((*callable)->name) + " with arguments that are not a tuple");
    if ((*callable)->role != PickleGlobal::Role::kOrderedDict) return push(PickleCall{*callable, tuple});
    if (!arguments->items.empty()) fail("makes an OrderedDict from arguments; expected it to be filled item by item");
    return push(PickleDict{});
  }

  /// The state of an OrderedDict is the `_metadata` of nn.Module.state_dict(), which only its own loader needs.
  bool build() {
    pop();
    if (!std::holds_alternative<PickleDict>(values_[top()])) {
      fail("sets the state of something that is not a dict; refusing to read it");
    }
    return true;
  }

  std::span<const std::byte> bytes_;
  const std::filesystem::path& file_;
  std::size_t position_ = 0;
  std::uint64_t operations_ = 0;
  std::vector<PickleValue> values_;
  std::vector<PickleRef> stack_;
  std::vector<std::size_t> marks_;  ///< heights of the stack at each open MARK
  std::vector<std::optional<PickleRef>> memo_;
};

}  // namespace

Pickle parse_pickle(std::span<const std::byte> bytes, const std::filesystem::path& file) {
  return Interpreter(bytes, file).run();
}

}  // namespace nibble
