// Regular expressions over UTF-8, with the meaning Hugging Face's tokenizers (Oniguruma 6.9.10, Unicode 16) gives them.
// A Regex is immutable and thread-safe; each search makes a Matcher of its own.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

class Regex {
 public:
  enum class Syntax { kOniguruma, kLiteral };

  struct Match {
    std::size_t begin, end;
  };

  /// Throws Error naming `file` when the pattern is damaged or uses what the two engines read differently.
  Regex(std::string_view pattern, Syntax syntax, const std::string& file);

  class Matcher;

 private:
  struct Compiled;
  std::shared_ptr<const Compiled> compiled_;
};

/// Scratch memory of the searches of one thread.
class Regex::Matcher {
 public:
  explicit Matcher(const Regex& regex);
  ~Matcher();
  Matcher(const Matcher&) = delete;
  Matcher& operator=(const Matcher&) = delete;

  /// Every match in valid UTF-8 `text`, from left to right, none overlapping. Throws Error when the pattern needs more
  /// backtracking than the engine allows.
  std::vector<Match> find_all(std::string_view text);

 private:
  struct Scratch;
  std::shared_ptr<const Compiled> compiled_;
  std::unique_ptr<Scratch> scratch_;
};

}  // namespace nibble
