// From Oniguruma's pattern language to PCRE2's: the same sets of characters, whatever Unicode version each was built
// with. Only what the patterns of tokenizers use is translated; what would silently mean something else is refused.
#pragma once

#include <string>
#include <string_view>

namespace nibble {

/// Throws Error naming `file` and the construct that has another meaning in PCRE2.
std::string to_pcre2(std::string_view pattern, const std::string& file);

}  // namespace nibble
