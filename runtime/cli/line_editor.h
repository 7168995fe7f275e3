// Lines typed at a terminal, with editing and a history that outlives the program.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

namespace nibble {

struct TypedLine {
  enum class Kind { kText, kCancelled, kCancelledEmpty, kEnd };
  Kind kind;         ///< cancelled: Ctrl-C, on a line with something on it or on an empty one; end: Ctrl-D
  std::string text;  ///< without its line end
};

/// Owns the terminal's settings while a line is read. SIGINT must be caught by the host (InterruptGuard).
class LineEditor {
 public:
  /// The history is read from `history`, which need not exist; a history that cannot be written is kept in memory.
  explicit LineEditor(std::filesystem::path history);
  ~LineEditor();

  TypedLine read(const std::string& prompt);
  /// Adds an entry, which may be of several lines, and saves.
  void remember(const std::string& entry);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace nibble
