// Flags with values, read strictly: the whole text must be the value and lie in its range. Nothing here is shared
// between threads. What a person typed wrong is thrown as UsageError, one sentence naming the flag.
#pragma once

#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace nibble::cli {

/// The command line is wrong, rather than what it asks for.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// `text` in quotes on one line: control characters escaped, a long text cut.
std::string in_quotes(std::string_view text);

/// The text given to a flag, and ways to read it. Each throws UsageError saying what was expected and what was found.
class FlagValue {
 public:
  FlagValue(std::string flag, std::string text) : flag_(std::move(flag)), text_(std::move(text)) {}

  const std::string& flag() const { return flag_; }  ///< as messages name it: "-n/--n-predict"
  const std::string& text() const { return text_; }

  /// A number in [low, high], which `expected` describes.
  template <class T>
  T number(std::string_view expected, T low, T high = std::numeric_limits<T>::max()) const {
    const std::optional<T> value = parse<T>(text_);
    if (!value || !(*value >= low && *value <= high)) fail(expected);
    return *value;
  }

  /// The value with that name, as one of nibble's parse functions knows it.
  template <class T>
  T name(std::string_view expected, std::optional<T> (*parse_name)(std::string_view)) const {
    const std::optional<T> value = parse_name(text_);
    if (!value) fail(expected);
    return *value;
  }

  /// Whole numbers in [0, high] with commas between: 2,17,9.
  std::vector<int> list(std::string_view expected, int high = std::numeric_limits<int>::max()) const;

  /// The same with ranges in it, in [low, high]: 1-4 is 1,2,3,4; 0-8+4 is 0,4,8; 1-8*2 is 1,2,4,8. At most 1000.
  std::vector<int> ranges(std::string_view expected, int low, int high) const;

  /// Names with commas between, each as `name` reads it.
  template <class T>
  std::vector<std::optional<T>> names(std::string_view expected,
                                      std::optional<T> (*parse_name)(std::string_view)) const {
    std::vector<std::optional<T>> values;
    for (const std::string_view part : parts()) {
      values.push_back(parse_name(part));
      if (!values.back()) fail(expected);
    }
    return values;
  }

  /// A size in bytes: 5GB, 500MB (powers of 1000), 4GiB (of 1024), or plain bytes.
  std::uint64_t bytes() const;

  [[noreturn]] void fail(std::string_view expected) const;

 private:
  /// What stands between the commas.
  std::vector<std::string_view> parts() const;

  template <class T>
  static std::optional<T> parse(std::string_view text) {
    T value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
    return value;
  }

  std::string flag_, text_;
};

/// Declares a flag whose value `read` takes, once, after the whole line was parsed. Of several the last counts.
CLI::Option* add_value(CLI::App& app, const std::string& names, const std::string& type,
                       std::function<void(const FlagValue&)> read, const std::string& help);

}  // namespace nibble::cli
