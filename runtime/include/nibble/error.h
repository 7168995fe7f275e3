// The one exception type of nibble. Every message is a sentence naming the file, tensor or option, what was expected
// and what was found; it is meant to be shown to a person as it is.
#pragma once

#include <stdexcept>
#include <string>

namespace nibble {

/// What went wrong, for callers that react differently to different failures.
enum class ErrorKind {
  kInvalidArgument,  ///< an option or a value passed in is out of range or contradicts another
  kNotFound,         ///< a file, tensor or device does not exist
  kIo,               ///< the operating system refused a read or a write (disk full, permission)
  kFormat,           ///< a file is damaged, malicious or contradicts itself
  kUnsupported,      ///< well-formed, but not something nibble runs
  kOutOfMemory,      ///< it does not fit, or an allocation failed
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const noexcept { return kind_; }

 private:
  ErrorKind kind_;
};

}  // namespace nibble
