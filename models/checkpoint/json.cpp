#include "models/checkpoint/json.h"

#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "models/checkpoint/quote.h"
#include "nibble/error.h"

namespace nibble {
namespace {

constexpr int kMaxDepth = 16;

[[noreturn]] void fail(const std::string& where, const std::string& what) {
  throw Error(ErrorKind::kFormat, where + ": expected " + what);
}

}  // namespace

template <class Json>
Json parse_json(std::string_view text, const std::string& where) {
  using Event = typename Json::parse_event_t;
  std::vector<std::set<std::string>> open_objects;
  const auto check = [&](int depth, Event event, Json& parsed) {
    if (depth > kMaxDepth) fail(where, "JSON nested at most " + std::to_string(kMaxDepth) + " deep, found it deeper");
    if (event == Event::object_start) open_objects.emplace_back();
    if (event == Event::object_end) open_objects.pop_back();
    if (event == Event::key && !open_objects.back().insert(parsed.template get<std::string>()).second) {
      fail(where, "every key once, found " + quote(parsed.template get<std::string>()) + " twice");
    }
    return true;
  };
  try {
    Json document = Json::parse(text, check);
    if (!document.is_object()) fail(where, std::string("a JSON object, found ") + document.type_name());
    return document;
  } catch (const typename Json::parse_error& error) {
    fail(where, "valid JSON, found an error at byte " + std::to_string(error.byte));
  } catch (const typename Json::out_of_range&) {
    fail(where, "valid JSON, found a number beyond the range of double");
  }
}

template nlohmann::json parse_json(std::string_view, const std::string&);
template nlohmann::ordered_json parse_json(std::string_view, const std::string&);

std::string show_json(const nlohmann::json& value) {
  constexpr std::size_t kShown = 80;
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true);
  if (text.size() > kShown) text = text.substr(0, kShown - 3) + "...";
  return text;
}

}  // namespace nibble
