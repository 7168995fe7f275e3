#include "models/checkpoint/shard_index.h"

#include <nlohmann/json.hpp>

#include "models/checkpoint/json.h"
#include "models/checkpoint/quote.h"
#include "nibble/error.h"

namespace nibble {
namespace {

bool is_plain_name(const std::string& shard) {
  return !shard.empty() && shard != "." && shard.find_first_of("/\\") == shard.npos && shard.find("..") == shard.npos &&
         shard.find('\0') == shard.npos;
}

}  // namespace

ShardIndex parse_shard_index(std::string_view text, const std::filesystem::path& file) {
  const auto fail = [&](const std::string& what) { throw Error(ErrorKind::kFormat, file.string() + ": " + what); };
  const auto document = parse_json<nlohmann::json>(text, file.string());
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
