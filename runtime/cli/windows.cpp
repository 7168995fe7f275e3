#include "runtime/cli/windows.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>

#include "nibble/error.h"
#include "runtime/cli/flags.h"
#include "runtime/cli/prompt.h"

namespace nibble::cli {
namespace {

constexpr int kUsualWindow = 512;

}  // namespace

void add_window_flags(CLI::App& app, WindowOptions& options, CLI::Option* text) {
  add_value(
      app, "--window", "N",
      [&](const FlagValue& value) { options.window = value.number("a whole number of at least 2", 2); },
      "Tokens of the text read at once (default: 512, or as many as the context takes)")
      ->needs(text);
  add_value(
      app, "--stride", "N",
      [&](const FlagValue& value) { options.stride = value.number("a whole number of at least 1", 1); },
      "Tokens from one window to the next; those read before are context only (default: the window's size)")
      ->needs(text);
  add_value(
      app, "--chunks", "N",
      [&](const FlagValue& value) { options.most = value.number("a whole number of at least 1", 1); },
      "Most windows (default: all)")
      ->needs(text);
}

void require_text(const ModelInfo& model, const std::string& file) {
  if (!model.has_tokenizer) {
    throw Error(ErrorKind::kUnsupported, model.name + ": has no tokenizer, which predicting a text needs");
  }
  read_prompt(File{file});
}

Windows::Windows(const Engine& engine, const std::string& file, const WindowOptions& options)
    : prefix_(engine.prefix_tokens()), text_(engine.tokenize(std::get<std::string>(read_prompt(File{file})))) {
  const auto prefix = static_cast<int>(prefix_.size());
  text_.erase(text_.begin(), text_.begin() + prefix);
  text_.resize(text_.size() - engine.suffix_tokens().size());
  const int room = engine.info().context - prefix;
  size_ = options.window == 0 ? std::min(kUsualWindow, room) : options.window;
  stride_ = options.stride == 0 ? size_ : options.stride;
  if (size_ > room) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("--window: expected at most {} tokens, which {} reads at once, found {}", room,
                            engine.info().name, size_));
  }
  if (stride_ > size_) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("--stride: expected at most the window's {} tokens, found {}", size_, stride_));
  }
  const auto length = static_cast<int>(text_.size());
  if (length < size_) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("{}: expected at least one window of {} tokens, found {}", file, size_, length));
  }
  count_ = std::min(options.most, (length - size_) / stride_ + 1);
}

std::vector<int> Windows::tokens(int number) const {
  std::vector<int> tokens = prefix_;
  const auto first = text_.begin() + static_cast<std::ptrdiff_t>(number) * stride_;
  tokens.insert(tokens.end(), first, first + size_);
  return tokens;
}

int Windows::first_predicted(int number) const {
  const int unread = number == 0 ? 0 : size_ - stride_;
  return std::max(1, static_cast<int>(prefix_.size()) + unread);  // the very first token has nothing before it
}

void predict(std::span<Session* const> sessions, int vocab_size, const Windows& windows,
             const OnPrediction& on_prediction, const OnWindow& on_window) {
  const auto vocabulary = static_cast<std::size_t>(vocab_size);
  for (int number = 0; number < windows.count(); ++number) {
    const std::vector<int> tokens = windows.tokens(number);
    std::vector<std::vector<float>> logits;
    for (Session* session : sessions) logits.push_back(session->logits(tokens));
    for (auto next = static_cast<std::size_t>(windows.first_predicted(number)); next < tokens.size(); ++next) {
      std::vector<Distribution> by_model;
      for (const std::vector<float>& rows : logits) {
        by_model.emplace_back(std::span(rows).subspan((next - 1) * vocabulary, vocabulary));
      }
      on_prediction(by_model, tokens[next]);
    }
    on_window(number + 1);
  }
}

}  // namespace nibble::cli
