#include "tokenizer/json_value.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tokenizer/piece_table.h"

namespace nibble {
namespace {

using nlohmann::json;

const json& node(const void* value) { return *static_cast<const json*>(value); }

}  // namespace

struct JsonValue::Document {
  std::string file;
  json root;
};

JsonValue::JsonValue(std::shared_ptr<const Document> document, const void* value, std::string place)
    : document_(std::move(document)), value_(value), place_(std::move(place)) {}

JsonValue JsonValue::parse(std::string_view text, const std::string& file) {
  auto document = std::make_shared<Document>();
  document->file = file;
  try {
    document->root = json::parse(text);
  } catch (const json::parse_error& error) {
    throw Error(ErrorKind::kFormat, file + " is not valid JSON: the fault is at byte " +
                                        std::to_string(std::min(error.byte, text.size())) + " of " +
                                        std::to_string(text.size()) + ".");
  } catch (const json::exception&) {  // a number beyond the range of double
    throw Error(ErrorKind::kFormat, file + " is not valid JSON: a number in it is out of range.");
  }
  const json* root = &document->root;
  return JsonValue(std::move(document), root, "");
}

bool JsonValue::is_array() const { return node(value_).is_array(); }
bool JsonValue::is_string() const { return node(value_).is_string(); }

const std::string& JsonValue::string() const {
  if (!is_string()) expected("a string");
  return node(value_).get_ref<const std::string&>();
}

bool JsonValue::boolean() const {
  if (!node(value_).is_boolean()) expected("true or false");
  return node(value_).get<bool>();
}

int JsonValue::token_id() const {
  const json& value = node(value_);
  if (!value.is_number_integer()) expected("a token id");
  const bool in_range = value.is_number_unsigned() && value.get<std::uint64_t>() < kMaxVocabulary;
  if (!in_range) {
    fail(ErrorKind::kFormat,
         "must be a token id from 0 to " + std::to_string(kMaxVocabulary - 1) + ", not " + value.dump());
  }
  return value.get<int>();
}

std::vector<JsonValue> JsonValue::items() const {
  if (!is_array()) expected("an array");
  std::vector<JsonValue> all;
  all.reserve(node(value_).size());
  for (const json& item : node(value_)) all.push_back(child(&item, "[" + std::to_string(all.size()) + "]"));
  return all;
}

std::vector<std::pair<std::string, JsonValue>> JsonValue::members() const {
  if (!node(value_).is_object()) expected("an object");
  std::vector<std::pair<std::string, JsonValue>> all;
  all.reserve(node(value_).size());
  for (const auto& [key, value] : node(value_).items()) all.emplace_back(key, child(&value, "." + key));
  return all;
}

std::optional<JsonValue> JsonValue::find(const std::string& key) const {
  if (!node(value_).is_object()) expected("an object");
  const auto found = node(value_).find(key);
  if (found == node(value_).end() || found->is_null()) return std::nullopt;
  return child(&*found, "." + key);
}

JsonValue JsonValue::at(const std::string& key) const {
  auto value = find(key);
  if (!value) fail(ErrorKind::kFormat, "must have a field \"" + key + "\", and has none");
  return *std::move(value);
}

bool JsonValue::flag(const std::string& key, bool if_absent) const {
  const auto value = find(key);
  return value ? value->boolean() : if_absent;
}

std::string JsonValue::type() const { return at("type").string(); }

void JsonValue::allow_only(std::initializer_list<std::string_view> keys) const {
  for (const auto& [key, value] : members()) {
    if (std::find(keys.begin(), keys.end(), key) == keys.end()) {
      fail(ErrorKind::kUnsupported, "has a field \"" + key + "\", which nibble does not know");
    }
  }
}

void JsonValue::fail(ErrorKind kind, const std::string& what) const {
  throw Error(kind,
              document_->file + ": " + (place_.empty() ? "the top level" : "\"" + place_ + "\"") + " " + what + ".");
}

const std::string& JsonValue::file() const { return document_->file; }

void JsonValue::expected(const std::string& what) const {
  fail(ErrorKind::kFormat, "must be " + what + ", not " + std::string(node(value_).type_name()));
}

JsonValue JsonValue::child(const void* value, const std::string& step) const {
  std::string place = place_ + step;
  if (place.starts_with('.')) place.erase(0, 1);
  return JsonValue(document_, value, std::move(place));
}

}  // namespace nibble
