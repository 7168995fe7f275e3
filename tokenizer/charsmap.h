// The table of rewritten characters inside a SentencePiece model. The library follows its offsets without looking where
// they lead, so a damaged model would have it read memory that is not the model's; this looks first.
#pragma once

#include <string>
#include <string_view>

namespace nibble {

/// Throws Error naming `file` when the normalizer of `model` (a serialized ModelProto) has a table that leads outside
/// of itself, or when the model is not made of protocol buffer fields.
void check_charsmap(std::string_view model, const std::string& file);

}  // namespace nibble
