#include "runtime/cli/line_editor.h"

#include <histedit.h>

#include <cerrno>
#include <cstdio>

namespace nibble {

struct LineEditor::State {
  std::filesystem::path file;
  std::string prompt;
  EditLine* editor = nullptr;
  History* history = nullptr;
  HistEvent event{};
};

namespace {

constexpr int kEntries = 1000;

char* current_prompt(EditLine* editor) {
  void* state = nullptr;
  el_get(editor, EL_CLIENTDATA, &state);
  return static_cast<LineEditor::State*>(state)->prompt.data();
}

}  // namespace

LineEditor::LineEditor(std::filesystem::path history) : state_(std::make_unique<State>()) {
  State& state = *state_;
  state.file = std::move(history);
  std::error_code ignored;
  std::filesystem::create_directories(state.file.parent_path(), ignored);
  state.history = history_init();
  ::history(state.history, &state.event, H_SETSIZE, kEntries);
  ::history(state.history, &state.event, H_SETUNIQUE, 1);
  ::history(state.history, &state.event, H_LOAD, state.file.c_str());
  state.editor = el_init("nibble", stdin, stdout, stderr);
  el_set(state.editor, EL_CLIENTDATA, &state);
  el_set(state.editor, EL_PROMPT, current_prompt);
  el_set(state.editor, EL_EDITOR, "emacs");
  el_set(state.editor, EL_HIST, ::history, state.history);
  el_set(state.editor, EL_BIND, "^R", "em-inc-search-prev", nullptr);
}

LineEditor::~LineEditor() {
  el_end(state_->editor);
  history_end(state_->history);
}

TypedLine LineEditor::read(const std::string& prompt) {
  state_->prompt = prompt;
  int count = 0;
  errno = 0;
  const char* typed = el_gets(state_->editor, &count);
  if (typed != nullptr && count > 0) {
    std::string text(typed, static_cast<std::size_t>(count));
    if (text.ends_with('\n')) text.pop_back();
    return {TypedLine::Kind::kText, std::move(text)};
  }
  if (errno != EINTR) return {TypedLine::Kind::kEnd, ""};
  const LineInfo* left = el_line(state_->editor);
  const bool empty = left->lastchar == left->buffer;
  el_reset(state_->editor);
  return {empty ? TypedLine::Kind::kCancelledEmpty : TypedLine::Kind::kCancelled, ""};
}

void LineEditor::remember(const std::string& entry) {
  history(state_->history, &state_->event, H_ENTER, entry.c_str());
  history(state_->history, &state_->event, H_SAVE, state_->file.c_str());
}

}  // namespace nibble
