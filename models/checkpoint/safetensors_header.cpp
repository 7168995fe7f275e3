#include "models/checkpoint/safetensors_header.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "models/checkpoint/byte_size.h"
#include "models/checkpoint/quote.h"
#include "nibble/error.h"

namespace nibble {
namespace {

using nlohmann::json;

constexpr std::array<std::pair<std::string_view, DType>, 13> kDTypes = {{{"F32", DType::kF32},
                                                                         {"F16", DType::kF16},
                                                                         {"BF16", DType::kBF16},
                                                                         {"F64", DType::kF64},
                                                                         {"I64", DType::kI64},
                                                                         {"I32", DType::kI32},
                                                                         {"I16", DType::kI16},
                                                                         {"I8", DType::kI8},
                                                                         {"U64", DType::kU64},
                                                                         {"U32", DType::kU32},
                                                                         {"U16", DType::kU16},
                                                                         {"U8", DType::kU8},
                                                                         {"BOOL", DType::kBool}}};
/// Element types the format defines and no OPT checkpoint uses.
constexpr std::array<std::string_view, 9> kOtherDTypes = {"F4",      "F6_E2M3",     "F6_E3M2",     "F8_E5M2", "F8_E4M3",
                                                          "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64"};

/// One tensor as the JSON says it, before its offsets are checked against the file.
struct Declared {
  TensorInfo info;
  std::uint64_t begin;  ///< from the end of the header
  std::uint64_t end;
};

/// Receives the JSON as events, so that a hostile header costs no more memory than the tensors it declares, and
/// accepts the one shape a header may have.
class HeaderReader : public nlohmann::json_sax<json> {
 public:
  explicit HeaderReader(const std::filesystem::path& file) : file_(file) {}

  std::vector<Declared> take() { return std::move(tensors_); }

  bool null() override { unexpected("null"); }
  bool boolean(bool) override { unexpected("true or false"); }
  bool number_integer(number_integer_t) override { unexpected("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { unexpected("a number that is not a 64-bit integer"); }
  bool binary(binary_t&) override { unexpected("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::kNumbers) unexpected("a number");
    numbers_->push_back(value);
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::kMetadata) return true;
    if (place_ != Place::kTensor || field_ != "dtype") unexpected("a string");
    dtype_ = parse_dtype(value);
    return true;
  }

  bool start_object(std::size_t) override {
    if (place_ == Place::kDocument) {
      place_ = Place::kNames;
    } else if (place_ == Place::kNames) {
      place_ = name_ == kSafetensorsMetadata ? Place::kMetadata : Place::kTensor;
    } else {
      unexpected("an object");
    }
    return true;
  }

  bool key(string_t& key) override {
    if (place_ == Place::kNames) {
      if (!names_.insert(key).second) fail("the header has the name " + quote(key) + " twice");
      name_ = std::move(key);
    } else if (place_ == Place::kMetadata) {
      if (!notes_.insert(key).second) fail("the header's __metadata__ has the key " + quote(key) + " twice");
    } else {
      field_ = std::move(key);
      if (field_ != "dtype" && field_ != "shape" && field_ != "data_offsets") {
        fail("tensor " + quote(name_) + " has an unknown field " + quote(field_) +
             "; expected dtype, shape and data_offsets");
      }
      const bool seen = field_ == "dtype"   ? dtype_.has_value()
                        : field_ == "shape" ? shape_.has_value()
                                            : offsets_.has_value();
      if (seen) fail("tensor " + quote(name_) + " has the field " + quote(field_) + " twice");
    }
    return true;
  }

  bool start_array(std::size_t) override {
    if (place_ != Place::kTensor || field_ == "dtype") unexpected("an array");
    place_ = Place::kNumbers;
    numbers_ = &(field_ == "shape" ? shape_ : offsets_).emplace();
    return true;
  }

  bool end_array() override {
    place_ = Place::kTensor;
    return true;
  }

  bool end_object() override {
    if (place_ == Place::kTensor) finish_tensor();
    place_ = place_ == Place::kNames ? Place::kDocument : Place::kNames;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    fail("the header is not valid JSON at byte " + std::to_string(position) + " of it");
  }

 private:
  enum class Place { kDocument, kNames, kMetadata, kTensor, kNumbers };

  [[noreturn]] void fail(const std::string& what, ErrorKind kind = ErrorKind::kFormat) const {
    throw Error(kind, file_.string() + ": " + what);
  }

  [[noreturn]] void unexpected(const std::string& found) const {
    if (place_ == Place::kDocument) fail("the header is " + found + ", not a JSON object of tensors");
    if (place_ == Place::kNames) fail("the header has " + found + " for tensor " + quote(name_) + ", not an object");
    if (place_ == Place::kMetadata) fail("the header's __metadata__ holds " + found + "; only strings are allowed");
    fail("tensor " + quote(name_) + " has " + found + " in its field " + quote(field_));
  }

  DType parse_dtype(const std::string& text) const {
    for (const auto& [name, dtype] : kDTypes) {
      if (name == text) return dtype;
    }
    if (std::ranges::find(kOtherDTypes, text) != kOtherDTypes.end()) {
      fail("tensor " + quote(name_) + " has element type " + text + ", which nibble does not read",
           ErrorKind::kUnsupported);
    }
    fail("tensor " + quote(name_) + " has element type " + quote(text) + ", which safetensors does not define");
  }

  void finish_tensor() {
    const std::string tensor = "tensor " + quote(name_);
    if (!dtype_) fail(tensor + " has no dtype");
    if (!shape_) fail(tensor + " has no shape");
    if (!offsets_) fail(tensor + " has no data_offsets");
    if (offsets_->size() != 2) {
      fail(tensor + " has " + std::to_string(offsets_->size()) + " data_offsets; expected a begin and an end");
    }
    std::vector<std::int64_t> shape;
    for (const std::uint64_t dimension : *shape_) {
      if (!std::in_range<std::int64_t>(dimension)) {
        fail(tensor + " has a dimension of " + std::to_string(dimension) + ", which is too large");
      }
      shape.push_back(static_cast<std::int64_t>(dimension));
    }
    tensors_.push_back({{std::move(name_), *dtype_, std::move(shape), file_}, offsets_->front(), offsets_->back()});
    dtype_.reset();
    shape_.reset();
    offsets_.reset();
  }

  const std::filesystem::path& file_;
  std::vector<Declared> tensors_;
  std::set<std::string> names_;
  std::set<std::string> notes_;  ///< keys of __metadata__
  Place place_ = Place::kDocument;
  std::string name_;   ///< of the tensor being read
  std::string field_;  ///< of that tensor
  std::optional<DType> dtype_;
  std::optional<std::vector<std::uint64_t>> shape_;
  std::optional<std::vector<std::uint64_t>> offsets_;
  std::vector<std::uint64_t>* numbers_ = nullptr;  ///< the array being read
};

/// The JSON text, its length checked against the file.
std::string_view header_text(std::span<const std::byte> bytes, const std::filesystem::path& file) {
  const auto fail = [&](const std::string& what) { throw Error(ErrorKind::kFormat, file.string() + ": " + what); };
  std::uint64_t length = 0;
  if (bytes.size() < sizeof length) {
    fail("is " + std::to_string(bytes.size()) + " bytes long, too short for a safetensors file");
  }
  std::memcpy(&length, bytes.data(), sizeof length);
  const std::uint64_t rest = bytes.size() - sizeof length;
  if (length > kMaxSafetensorsHeader) {
    fail("claims a header of " + std::to_string(length) + " bytes; safetensors allows at most " +
         std::to_string(kMaxSafetensorsHeader));
  }
  if (length > rest) {
    fail("claims a header of " + std::to_string(length) + " bytes, but only " + std::to_string(rest) +
         " follow; the file is truncated or not safetensors");
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + sizeof length, length);
  if (!text.starts_with('{')) fail("the header does not begin with '{'");
  // The JSON reader takes a zero byte for the end of its input and would ignore what follows.
  if (text.find('\0') != std::string_view::npos) fail("the header contains a zero byte");
  return text;
}

void check_size(const Declared& tensor, const std::filesystem::path& file) {
  const auto size = byte_size(tensor.info.dtype, tensor.info.shape);
  const std::string what = file.string() + ": tensor " + quote(tensor.info.name) + " of shape " +
                           shape_text(tensor.info.shape) + " and type " +
                           std::string(safetensors_name(tensor.info.dtype));
  if (!size) throw Error(ErrorKind::kFormat, what + " has more bytes than can be counted");
  if (tensor.end - tensor.begin != *size) {
    throw Error(ErrorKind::kFormat, what + " needs " + std::to_string(*size) + " bytes, but its data_offsets span " +
                                        std::to_string(tensor.end - tensor.begin));
  }
}

/// The contents must follow one another from the end of the header to the end of the file. `tensors` are in order.
void check_tiling(const std::vector<Declared>& tensors, std::uint64_t space, const std::filesystem::path& file) {
  const auto fail = [&](const std::string& what) { throw Error(ErrorKind::kFormat, file.string() + ": " + what); };
  std::uint64_t position = 0;
  std::string previous = "the header";
  for (const Declared& tensor : tensors) {
    const std::string name = "tensor " + quote(tensor.info.name);
    if (tensor.begin > tensor.end) {
      fail(name + " ends at byte " + std::to_string(tensor.end) + ", before it begins at " +
           std::to_string(tensor.begin));
    }
    if (tensor.begin < position) fail(name + " overlaps " + previous);
    if (tensor.begin > position) {
      fail("there is a hole of " + std::to_string(tensor.begin - position) + " bytes between " + previous + " and " +
           name);
    }
    check_size(tensor, file);
    position = tensor.end;
    previous = name;
  }
  if (position > space) {
    fail("is truncated: its tensors take " + std::to_string(position) + " bytes, but only " + std::to_string(space) +
         " follow the header");
  }
  if (position < space) {
    fail("has " + std::to_string(space - position) + " bytes after its last tensor that belong to none");
  }
}

}  // namespace

std::string_view safetensors_name(DType dtype) {
  return std::ranges::find(kDTypes, dtype, &std::pair<std::string_view, DType>::second)->first;
}

std::vector<SafetensorsEntry> parse_safetensors_header(std::span<const std::byte> bytes,
                                                       const std::filesystem::path& file) {
  const std::string_view text = header_text(bytes, file);
  HeaderReader reader(file);
  json::sax_parse(text, &reader);
  std::vector<Declared> declared = reader.take();
  std::ranges::sort(declared, {}, [](const Declared& tensor) { return std::pair(tensor.begin, tensor.end); });
  const std::uint64_t start = sizeof(std::uint64_t) + text.size();
  check_tiling(declared, bytes.size() - start, file);
  std::vector<SafetensorsEntry> entries;
  entries.reserve(declared.size());
  for (Declared& tensor : declared) entries.push_back({std::move(tensor.info), start + tensor.begin});
  return entries;
}

}  // namespace nibble
