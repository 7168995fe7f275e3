#include "models/checkpoint/shard_index.h"

#include <nlohmann/json.hpp>
#include <set>
#include <utility>
#include <vector>

#include "models/checkpoint/quote.h"
#include "nibble/error.h"

namespace nibble {
namespace {

using nlohmann::json;

/// The document, its objects free of repeated keys, which the JSON reader alone would silently drop.
json parse_strictly(std::string_view text, const std::filesystem::path& file) {
  constexpr int kMaxDepth = 16;
  std::vector<std::set<std::string>> open_objects;
  const auto check = [&](int depth, json::parse_event_t event, json& parsed) {
    if (depth > kMaxDepth) throw Error(ErrorKind::kFormat, file.string() + ": is nested too deeply for an index");
    if (event == json::parse_event_t::object_start) open_objects.emplace_back();
    if (event == json::parse_event_t::object_end) open_objects.pop_back();
    if (event == json::parse_event_t::key && !open_objects.back().insert(parsed.get<std::string>()).second) {
      throw Error(ErrorKind::kFormat,
                  file.string() + ": has the key " + quote(parsed.get_ref<const std::string&>()) + " twice");
    }
    return true;
  };
  try {
    return json::parse(text, check);
  } catch (const json::parse_error& error) {
    throw Error(ErrorKind::kFormat, file.string() + ": is not valid JSON at byte " + std::to_string(error.byte));
  }
}

bool is_plain_name(const std::string& shard) {
  return !shard.empty() && shard != "." && shard.find_first_of("/\\") == shard.npos && shard.find("..") == shard.npos &&
         shard.find('\0') == shard.npos;
}

}  // namespace

ShardIndex parse_shard_index(std::string_view text, const std::filesystem::path& file) {
  const auto fail = [&](const std::string& what) { throw Error(ErrorKind::kFormat, file.string() + ": " + what); };
  const json document = parse_strictly(text, file);
  if (!document.is_object()) fail("is not a JSON object");
  const auto weight_map = document.find("weight_map");
  if (weight_map == document.end() || !weight_map->is_object()) fail("has no object \"weight_map\"");
  if (weight_map->empty()) fail("has an empty \"weight_map\"");
  ShardIndex index;
  for (const auto& [tensor, shard] : weight_map->items()) {
    if (!shard.is_string()) fail("does not name a file for tensor " + quote(tensor));
    if (!is_plain_name(shard.get_ref<const std::string&>())) {
      fail("places tensor " + quote(tensor) + " in " + quote(shard.get_ref<const std::string&>()) +
           ", which is not a file beside it");
    }
    index.emplace(tensor, shard.get<std::string>());
  }
  return index;
}

}  // namespace nibble
