// Names that come out of a file, made safe to show in an error sentence.
#pragma once

#include <string>
#include <string_view>

namespace nibble {

/// `name` in single quotes: printable ASCII as it is, every other byte as \xNN (a file must not be able to steer the
/// terminal), and no more than the first 100 bytes.
std::string quote(std::string_view name);

/// Two lower-case hexadecimal digits: "0f".
std::string hex(unsigned char byte);

}  // namespace nibble
