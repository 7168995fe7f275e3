// Turns a growing list of ids into text that can be printed as it comes: never half a character.
#pragma once

#include <string>

#include "tokenizer/tokenizer.h"

namespace nibble {

/// Not thread-safe; one per running text. The tokenizer must outlive it.
class StreamDecoder {
 public:
  enum class Start { kText, kContinuation };  ///< whether the first piece begins the text or follows a prompt

  StreamDecoder(const Tokenizer& tokenizer, Start start);
  /// The whole characters that `id` completes. At most three bytes are held back; bytes that can no longer become a
  /// character come out as U+FFFD, one for each maximal invalid part (as Python's errors="replace").
  std::string push(int id);
  /// What is still held back, as U+FFFD, and a fresh start.
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  std::string held_;
  bool drop_space_;
};

}  // namespace nibble
