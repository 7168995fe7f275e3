// A text cut into windows that a model reads one by one, each token being predicted once.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "nibble/engine.h"
#include "runtime/cli/quality.h"

namespace nibble::cli {

struct WindowOptions {
  int window = 0;  ///< tokens of the text; 0: 512, or as many as fit the model's context
  int stride = 0;  ///< tokens from one window's beginning to the next's; 0: the window's size
  int most = std::numeric_limits<int>::max();  ///< windows
};

/// --window, --stride and --chunks, which need the flag that names the text.
void add_window_flags(CLI::App& app, WindowOptions& options, CLI::Option* text);

/// Throws Error, before the model is loaded, when it has no tokenizer or the text cannot be read.
void require_text(const ModelInfo& model, const std::string& file);

/// The tokens of a text, tokenized once and cut into whole windows; what is left at the end is dropped. Every window is
/// read behind the tokens that the tokenizer puts before a text; those that it puts behind one are left out, as no
/// window but the last ends where the text does.
class Windows {
 public:
  /// Throws Error when the text, read from `file`, is shorter than a window, or the window does not fit the context.
  Windows(const Engine& engine, const std::string& file, const WindowOptions& options);

  int count() const { return count_; }
  int size() const { return size_; }
  int stride() const { return stride_; }
  const std::vector<int>& prefix() const { return prefix_; }
  /// Tokens of a session that reads them.
  int context() const { return static_cast<int>(prefix_.size()) + size_; }

  /// Window `number` as the model reads it, prefix first.
  std::vector<int> tokens(int number) const;
  /// Where in it the tokens begin that no earlier window has predicted.
  int first_predicted(int number) const;

 private:
  std::vector<int> prefix_, text_;
  int size_, stride_, count_;
};

/// What each of several models says of one token, and the token that comes.
using OnPrediction = std::function<void(std::span<const Distribution> by_model, int token)>;
using OnWindow = std::function<void(int done)>;

/// Lets every session read every window.
void predict(std::span<Session* const> sessions, int vocab_size, const Windows& windows,
             const OnPrediction& on_prediction, const OnWindow& on_window);

}  // namespace nibble::cli
