// A value of a JSON file that knows its place in it, so that whatever is wrong is said as one sentence naming the file,
// the field and what was found. Keeps the document it belongs to alive.
#pragma once

#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nibble/error.h"

namespace nibble {

class JsonValue {
 public:
  /// Throws Error naming `file` when `text` is not JSON.
  static JsonValue parse(std::string_view text, const std::string& file);

  bool is_array() const;
  bool is_string() const;

  // What the value must be; Error when it is something else.
  const std::string& string() const;
  bool boolean() const;
  int token_id() const;  ///< an integer from 0 to kMaxVocabulary - 1
  std::vector<JsonValue> items() const;
  std::vector<std::pair<std::string, JsonValue>> members() const;

  /// The member of that name; absent and null are the same.
  std::optional<JsonValue> find(const std::string& key) const;
  /// The same, where it must be there.
  JsonValue at(const std::string& key) const;
  bool flag(const std::string& key, bool if_absent) const;
  std::string type() const;  ///< the member "type"

  /// Throws kUnsupported naming the first member that is none of these.
  void allow_only(std::initializer_list<std::string_view> keys) const;

  [[noreturn]] void fail(ErrorKind kind, const std::string& what) const;
  /// The file.
  const std::string& file() const;

 private:
  struct Document;
  JsonValue(std::shared_ptr<const Document> document, const void* value, std::string place);

  [[noreturn]] void expected(const std::string& what) const;
  JsonValue child(const void* value, const std::string& step) const;

  std::shared_ptr<const Document> document_;
  const void* value_;
  std::string place_;  ///< "model.merges[3]"
};

}  // namespace nibble
