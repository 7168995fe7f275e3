#include "models/checkpoint/pickle.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "models/checkpoint/state_dict.h"
#include "tests/models/checkpoint_testing.h"

namespace nibble {
namespace {

using namespace std::string_literals;

// Pickles are built here operation by operation; the letters are those of CPython's Lib/pickletools.py.
const std::string kProto2 = "\x80\x02";
const std::string kEmptyDict = "}";
const std::string kMark = "(";
const std::string kTuple = "t";
const std::string kReduce = "R";
const std::string kStop = ".";

std::string global(const std::string& module, const std::string& name) { return "c" + module + "\n" + name + "\n"; }
std::string text(const std::string& value) { return "X"s + bytes_of(static_cast<std::uint32_t>(value.size())) + value; }
std::string integer(std::int64_t value) { return "\x8a\x08"s + bytes_of(value); }
std::string integers(std::initializer_list<std::int64_t> values) {
  std::string items = kMark;
  for (const std::int64_t value : values) items += integer(value);
  return items + kTuple;
}
std::string ordered_dict() { return global("collections", "OrderedDict") + ")" + kReduce; }
std::string storage(const std::string& type, std::int64_t elements) {
  return kMark + text("storage") + global("torch", type) + text("0") + text("cpu") + integer(elements) + kTuple + "Q";
}
std::string tensor(const std::string& from, std::int64_t offset, std::initializer_list<std::int64_t> size,
                   std::initializer_list<std::int64_t> stride) {
  return global("torch._utils", "_rebuild_tensor_v2") + kMark + from + integer(offset) + integers(size) +
         integers(stride) + "\x89" + ordered_dict() + kTuple + kReduce;
}
/// A whole pickle of the dict {"w": value}.
std::string dict_with(const std::string& value) { return kProto2 + kEmptyDict + text("w") + value + "s" + kStop; }

Pickle parse(const std::string& bytes) { return parse_pickle(std::as_bytes(std::span(bytes)), "evil.bin"); }
std::vector<StateTensor> state_dict(const std::string& bytes) {
  return parse_state_dict(std::as_bytes(std::span(bytes)), "evil.bin");
}
void expect_refused(const std::string& bytes, std::initializer_list<std::string_view> parts,
                    ErrorKind kind = ErrorKind::kFormat) {
  for (const std::string_view part : parts) expect_error(kind, {part, "evil.bin: "}, [&] { state_dict(bytes); });
}

TEST(Pickle, ReadsPlainValues) {
  const std::string bytes = kProto2 + kMark + "N\x88\x89" + "J" + bytes_of<std::int32_t>(-5) + "K\xff" + "M\x01\x02" +
                            "\x8a\x00"s + "\x8a\x02\x00\x80"s + "\x8a\x06\x00\x00\x00\x00\x00\x01"s +
                            "G\x3f\xf8\x00\x00\x00\x00\x00\x00"s + text("é") + "\x8c\x02hi" + "U\x01x" + "\x8f]}" +
                            kTuple + kStop;
  const Pickle pickle = parse(bytes);
  const auto* const tuple = pickle.get<PickleTuple>(pickle.root());
  ASSERT_TRUE(tuple);
  const auto& items = tuple->items;
  ASSERT_EQ(items.size(), 16u);
  EXPECT_TRUE(pickle.get<PickleNone>(items[0]));
  EXPECT_TRUE(*pickle.get<bool>(items[1]));
  EXPECT_FALSE(*pickle.get<bool>(items[2]));
  const std::int64_t expected[] = {-5, 255, 513, 0, -32768, 1ll << 40};
  for (std::size_t i = 0; i < std::size(expected); ++i) EXPECT_EQ(*pickle.get<std::int64_t>(items[3 + i]), expected[i]);
  EXPECT_EQ(*pickle.get<double>(items[9]), 1.5);
  EXPECT_EQ(*pickle.get<std::string_view>(items[10]), "é");
  EXPECT_EQ(*pickle.get<std::string_view>(items[11]), "hi");
  EXPECT_EQ(*pickle.get<std::string_view>(items[12]), "x");
  EXPECT_TRUE(pickle.get<PickleTuple>(items[13]));
  EXPECT_TRUE(pickle.get<PickleList>(items[14]));
  EXPECT_TRUE(pickle.get<PickleDict>(items[15]));
}

TEST(Pickle, RecallsWhatItKept) {
  const Pickle pickle = parse(kProto2 + "]q\x00h\x00\x86."s);
  const auto* const pair = pickle.get<PickleTuple>(pickle.root());
  ASSERT_TRUE(pair);
  EXPECT_EQ(pair->items[0], pair->items[1]);
}

TEST(Pickle, AllowsAListThatHoldsItself) {
  const Pickle pickle = parse(kProto2 +
                              "]q\x00h\x00"
                              "a."s);
  const auto* const list = pickle.get<PickleList>(pickle.root());
  ASSERT_TRUE(list);
  EXPECT_EQ(list->items, std::vector<PickleRef>{pickle.root()});
}

TEST(Pickle, RefusesACallOfTheSystem) {
  const std::string command = global("posix", "system") + kMark + text("touch /tmp/owned") + kTuple + kReduce;
  expect_refused(kProto2 + command + kStop, {"evil.bin: data.pkl asks for 'posix.system'", "refusing to read it"});
  expect_refused(dict_with(command), {"asks for 'posix.system'"});
  expect_refused(dict_with(kMark + integer(1) + kEmptyDict + text("deep") + command + "s" + kTuple),
                 {"asks for 'posix.system'"});
  expect_refused(dict_with("\x8c\x05posix\x8c\x06system\x93" + kMark + text("id") + kTuple + kReduce),
                 {"asks for 'posix.system'"});
}

TEST(Pickle, RefusesEveryNameThatIsNotOnTheList) {
  for (const auto& [module, name] :
       {std::pair("builtins", "eval"), std::pair("__builtin__", "exec"), std::pair("torch.storage", "_load_from_bytes"),
        std::pair("torch", "load"), std::pair("numpy.core.multiarray", "_reconstruct"),
        std::pair("collections", "OrderedDict.fromkeys")}) {
    expect_refused(dict_with(global(module, name)), {"asks for '"s + module + "." + name + "'"});
  }
}

TEST(Pickle, RefusesOperationsThatAStateDictNeverNeeds) {
  for (const auto& [op, shown] :
       {std::pair("i", "0x69"), std::pair("o", "0x6f"), std::pair("\x92", "0x92"), std::pair("\x82", "0x82"),
        std::pair("P", "0x50"), std::pair("0", "0x30"), std::pair("\x90", "0x90"), std::pair("I", "0x49")}) {
    expect_refused(kProto2 + "}" + op, {"uses the pickle operation "s + shown});
  }
}

TEST(Pickle, RefusesStateOfAnythingButADict) {
  expect_refused(kProto2 + global("torch", "Size") + ")R}b.", {"sets the state of something that is not a dict"});
}

TEST(Pickle, RefusesCallsOfThingsThatAreNotNames) {
  expect_refused(kProto2 + text("eval") + ")R.", {"calls something that is not a known name"});
  expect_refused(kProto2 + global("torch", "Size") + "]R.", {"calls 'Size' with arguments that are not a tuple"});
  expect_refused(kProto2 + integer(1) + integer(2) + "\x93.", {"asks for a name that is not a string"});
}

TEST(Pickle, RefusesAMemoIndexOutOfAllProportion) {
  expect_refused(kProto2 + "}r\xff\xff\xff\xff.", {"under the number 4294967295 after only 2 operations"});
  expect_refused(kProto2 + "j\xff\xff\xff\xff.", {"recalls value 4294967295, which it never kept"});
  expect_refused(kProto2 + "h\x07.", {"recalls value 7, which it never kept"});
}

TEST(Pickle, SurvivesDeepNesting) {
  std::string nested = "]";
  for (int i = 0; i < 200'000; ++i) nested += "\x85";
  expect_refused(kProto2 + nested + kStop, {"holds something that is not a dict"});
  expect_refused(dict_with(nested), {"holds no tensors"});
}

TEST(Pickle, RefusesStringsLongerThanTheFile) {
  expect_refused(kProto2 +
                     "X\xff\xff\xff\xff"
                     "abc",
                 {"4294967295 bytes expected at byte 7, 3 left"});
  expect_refused(kProto2 +
                     "\x8d\xff\xff\xff\xff\xff\xff\xff\xff"
                     "abc",
                 {"18446744073709551615 bytes expected"});
  expect_refused(kProto2 + "\x8a\x20" + std::string(32, '1') + kStop, {"holds an integer of 32 bytes"});
  expect_refused(kProto2 + "ctorch", {"ends in the middle of a name"});
}

TEST(Pickle, RefusesMarksWithoutEnd) {
  expect_refused(kProto2 + std::string(100'000, '('), {"ends in the middle of an operation"});
  expect_refused(kProto2 + std::string(100'000, '(') + kStop, {"does not end with exactly one value"});
  expect_refused(kProto2 + std::string(9u << 20, '('), {"has more than 8388608 operations"});
  expect_refused(kProto2 + "t.", {"ends a sequence that was never begun"});
  expect_refused(kProto2 + "](a.", {"takes a value from an empty stack"});
  expect_refused(kProto2 + "].", {"holds something that is not a dict"});
  expect_refused(kProto2 + ".", {"does not end with exactly one value"});
}

TEST(Pickle, RefusesItemsForTheWrongContainer) {
  expect_refused(kProto2 + "}Na.", {"adds items to something that is not a list"});
  expect_refused(kProto2 + "]NNs.", {"adds items to something that is not a dict"});
  expect_refused(kProto2 + "}(Nu.", {"sets a key without a value"});
  expect_refused(kProto2 + global("collections", "OrderedDict") + "]\x85R.", {"makes an OrderedDict from arguments"});
}

TEST(Pickle, RefusesWhatIsNotAPickle) {
  expect_refused("", {"does not begin as a pickle"});
  expect_refused("hello", {"does not begin as a pickle"});
  expect_refused("\x80\x01.", {"protocol 1; expected 2 to 5"});
  expect_refused("\x80\x06.", {"protocol 6; expected 2 to 5"});
}

TEST(StateDict, ReadsATensor) {
  const auto tensors = state_dict(dict_with(tensor(storage("HalfStorage", 10), 2, {2, 3}, {4, 1})));
  ASSERT_EQ(tensors.size(), 1u);
  EXPECT_EQ(tensors[0].info.name, "w");
  EXPECT_EQ(tensors[0].info.dtype, DType::kF16);
  EXPECT_EQ(tensors[0].info.shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(tensors[0].strides, (std::vector<std::int64_t>{4, 1}));
  EXPECT_EQ(tensors[0].offset, 4u);
  EXPECT_EQ(tensors[0].storage, "0");
  EXPECT_EQ(tensors[0].storage_bytes, 20u);
}

TEST(StateDict, GathersByStrides) {
  const auto tensors = state_dict(dict_with(tensor(storage("ByteStorage", 8), 1, {3, 2}, {1, 4})));
  const std::string elements = "01234567";
  std::string copy(6, '\0');
  gather(tensors[0], std::as_bytes(std::span(elements)), std::as_writable_bytes(std::span(copy)));
  EXPECT_EQ(copy, "152637");
  EXPECT_FALSE(is_contiguous(tensors[0]));
  EXPECT_TRUE(is_contiguous(state_dict(dict_with(tensor(storage("ByteStorage", 8), 1, {1, 3}, {99, 1})))[0]));
}

TEST(StateDict, RefusesTensorsOutsideTheirStorage) {
  const std::string floats = storage("FloatStorage", 6);
  expect_refused(dict_with(tensor(floats, 0, {7}, {1})), {"tensor 'w' of shape [7]", "beyond its storage of 24 bytes"});
  expect_refused(dict_with(tensor(floats, 1, {6}, {1})), {"tensor 'w'", "at offset 1 reaches beyond"});
  expect_refused(dict_with(tensor(floats, 0, {2, 2}, {5, 1})), {"strides [5, 1]", "reaches beyond"});
  expect_refused(dict_with(tensor(floats, 6, {}, {})), {"reaches beyond"});
  expect_refused(dict_with(tensor(floats, 0, {2, 2}, {1ll << 62, 1ll << 62})), {"reaches beyond"});
  expect_refused(dict_with(tensor(floats, INT64_MAX, {2}, {INT64_MAX})), {"reaches beyond"});
}

TEST(StateDict, RefusesImpossibleNumbers) {
  const std::string floats = storage("FloatStorage", 6);
  expect_refused(dict_with(tensor(floats, 0, {2}, {-1})), {"tensor 'w' has a negative stride of -1"});
  expect_refused(dict_with(tensor(floats, 0, {-2}, {1})), {"tensor 'w' has a negative size of -2"});
  expect_refused(dict_with(tensor(floats, -1, {2}, {1})), {"tensor 'w' has a negative offset of -1"});
  expect_refused(dict_with(tensor(storage("FloatStorage", -1), 0, {2}, {1})), {"negative storage length of -1"});
  expect_refused(dict_with(tensor(storage("FloatStorage", 1ll << 62), 0, {2}, {1})), {"which is too large"});
  expect_refused(dict_with(tensor(floats, 0, {2}, {1, 1})), {"tensor 'w' has 1 dimensions but 2 strides"});
  expect_refused(dict_with(tensor(floats, 0, {1, 1, 1, 1, 1, 1, 1, 1, 1}, {1})), {"a size of 9 dimensions"});
  expect_refused(dict_with(tensor(floats, 0, {1ll << 40, 1ll << 40}, {0, 0})), {"more bytes than can be counted"});
}

TEST(StateDict, RefusesExpandedTensorsThatWouldTakeAnyMemory) {
  expect_refused(dict_with(tensor(storage("FloatStorage", 1), 0, {1ll << 40}, {0})),
                 {"tensor 'w'", "repeats the elements"}, ErrorKind::kUnsupported);
}

TEST(StateDict, RefusesTensorsWithoutAStorage) {
  const auto id = [](const std::string& items) { return kMark + items + kTuple + "Q"; };
  const std::string key = text("0") + text("cpu") + integer(6);
  const std::string type = global("torch", "FloatStorage");
  for (const std::string& from :
       {id(text("module") + type + key), id(text("storage") + global("torch", "float32") + key),
        id(text("storage") + type + text("0") + text("cpu")), id(integer(1) + type + key), std::string("N"),
        std::string("NQ")}) {
    expect_refused(dict_with(tensor(from, 0, {2}, {1})), {"tensor 'w' does not refer to a storage of the file"});
  }
}

TEST(StateDict, RefusesNamesThatOccurTwice) {
  const std::string one = text("w") + tensor(storage("FloatStorage", 6), 0, {2}, {1});
  expect_refused(kProto2 + "}(" + one + one + "u.", {"holds tensor 'w' twice"});
}

TEST(StateDict, RefusesWhatHoldsNoTensors) {
  expect_refused(kProto2 + "}.", {"holds no tensors"});
  expect_refused(kProto2 + "N.", {"is not a dict"});
}

TEST(StateDict, LooksOneLevelDownAndKeepsOnlyTensors) {
  const std::string weight = text("w") + tensor(storage("FloatStorage", 6), 0, {2}, {1});
  for (const char* name : {"state_dict", "model", "module"}) {
    const auto tensors = state_dict(kProto2 + "}(" + text("epoch") + integer(3) + text(name) + "}(" + weight +
                                    text("version") + integer(2) + "uu.");
    ASSERT_EQ(tensors.size(), 1u);
    EXPECT_EQ(tensors[0].info.name, "w");
  }
  expect_refused(kProto2 + "}" + text("optimizer") + "}" + weight + "ss.", {"holds no tensors"});
}

TEST(StateDict, TakesTheElementTypeOfAnUntypedStorageFromTheTensor) {
  const std::string call = global("torch._utils", "_rebuild_tensor_v3") + kMark + storage("UntypedStorage", 12) +
                           integer(1) + integers({2}) + integers({2}) + "\x89" + ordered_dict();
  const auto tensors = state_dict(dict_with(call + global("torch", "uint16") + kTuple + kReduce));
  ASSERT_EQ(tensors.size(), 1u);
  EXPECT_EQ(tensors[0].info.dtype, DType::kU16);
  EXPECT_EQ(tensors[0].offset, 2u);
  EXPECT_EQ(tensors[0].storage_bytes, 12u);
  expect_refused(dict_with(call + integer(1) + kTuple + kReduce), {"tensor 'w' has no element type"});
}

}  // namespace
}  // namespace nibble
