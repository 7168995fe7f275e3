// JSON out of a checkpoint, which may be damaged or hostile: one reader for all of models/. It is shallow, so that
// copying and printing what was read, which recurse, cannot exhaust the stack.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace nibble {

/// The object that `text` is. `Json` is nlohmann::json, or ordered_json where the order of keys is kept. `where` begins
/// the sentence: the file, or the tensor in it. Throws Error{kFormat} for what is no JSON object, is nested more than
/// 16 deep, or has a key twice in one object, of which the JSON library would silently drop one.
template <class Json>
Json parse_json(std::string_view text, const std::string& where);

/// A value in one line of ASCII of at most 80 characters, for messages.
std::string show_json(const nlohmann::json& value);

}  // namespace nibble
