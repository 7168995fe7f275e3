// The index of a sharded checkpoint: `model.safetensors.index.json` or `pytorch_model.bin.index.json`.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>

namespace nibble {

/// Shard file name by tensor name, from the index's "weight_map".
using ShardIndex = std::map<std::string, std::string, std::less<>>;

/// Checks that shards are plain names beside the index. `file` is for messages. Throws Error{kFormat}.
ShardIndex parse_shard_index(std::string_view text, const std::filesystem::path& file);

}  // namespace nibble
