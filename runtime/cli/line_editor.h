// A line from the terminal, with editing and a history that outlives the program (libedit).
#pragma once

#include <filesystem>
#include <memory>
#include <string>

namespace nibble::cli {

/// One at a time: libedit asks for the prompt through a plain function.
class LineEditor {
 public:
  enum class Event {
    kLine,
    kInterrupt,  ///< Ctrl-C; `text` is what had been typed
    kEnd,        ///< Ctrl-D, a signal, or the terminal is gone
  };
  struct Input {
    Event event;
    std::string text;  ///< without the line end
  };

  /// The history is kept in `history_file`; where that is empty or cannot be written, it lasts as long as the editor.
  explicit LineEditor(std::filesystem::path history_file);
  ~LineEditor();

  Input read(const char* prompt);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// $XDG_STATE_HOME/nibble/history, or ~/.local/state/nibble/history; empty where neither variable names a place.
std::filesystem::path history_file();

}  // namespace nibble::cli
