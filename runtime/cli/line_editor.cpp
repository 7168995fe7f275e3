#include "runtime/cli/line_editor.h"

#include <histedit.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cwchar>
#include <system_error>

namespace nibble::cli {

struct LineEditor::Impl {
  std::filesystem::path history_file;
  std::unique_ptr<EditLine, void (*)(EditLine*)> line{el_init("nibble", stdin, stdout, stderr), el_end};
  std::unique_ptr<History, void (*)(History*)> past{history_init(), history_end};
  const char* prompt = "";
  bool interrupted = false;  ///< by the key; Ctrl-C sends no signal while a line is edited

  static Impl& of(EditLine* line) {
    Impl* impl = nullptr;
    el_get(line, EL_CLIENTDATA, &impl);
    return *impl;
  }
  static char* prompt_of(EditLine* line) { return const_cast<char*>(of(line).prompt); }
  static unsigned char interrupt(EditLine* line, wint_t) {
    of(line).interrupted = true;
    return CC_EOF;
  }
  static unsigned char suspend(EditLine*, wint_t) {
    std::raise(SIGTSTP);  // libedit's handler gives the terminal back before it stops
    return CC_REFRESH;
  }

  void remember(const char* entry) {
    HistEvent event;
    history(past.get(), &event, H_ENTER, entry);
    if (!history_file.empty()) history(past.get(), &event, H_SAVE, history_file.c_str());
  }
};

LineEditor::LineEditor(std::filesystem::path history_file) : impl_(std::make_unique<Impl>()) {
  impl_->history_file = std::move(history_file);
  constexpr int kHistoryEntries = 1000;
  HistEvent event;
  history(impl_->past.get(), &event, H_SETSIZE, kHistoryEntries);
  history(impl_->past.get(), &event, H_SETUNIQUE, 1);
  if (!impl_->history_file.empty()) {
    std::error_code ignored;
    std::filesystem::create_directories(impl_->history_file.parent_path(), ignored);
    history(impl_->past.get(), &event, H_LOAD, impl_->history_file.c_str());
  }

  EditLine* line = impl_->line.get();
  el_set(line, EL_CLIENTDATA, impl_.get());
  el_set(line, EL_PROMPT, &Impl::prompt_of);
  el_set(line, EL_EDITOR, "emacs");
  el_set(line, EL_HIST, history, impl_->past.get());
  el_set(line, EL_SIGNAL, 1);
  el_set(line, EL_BIND, "^R", "em-inc-search-prev", nullptr);
  el_set(line, EL_SETTY, "-d", "-isig", nullptr);  // Ctrl-C comes as a key, so none is lost between two signals
  // Wide names: libedit keeps them as they are, while of others it leaks a copy.
  el_wset(line, EL_ADDFN, L"nibble-interrupt", L"Give the line up", &Impl::interrupt);
  el_set(line, EL_BIND, "^C", "nibble-interrupt", nullptr);
  el_wset(line, EL_ADDFN, L"nibble-suspend", L"Stop the program until it is continued", &Impl::suspend);
  el_set(line, EL_BIND, "^Z", "nibble-suspend", nullptr);
}

LineEditor::~LineEditor() = default;

LineEditor::Input LineEditor::read(const char* prompt) {
  EditLine* editor = impl_->line.get();
  impl_->prompt = prompt;
  impl_->interrupted = false;
  el_set(editor, EL_PREP_TERM, 1);  // before the prompt is seen, so that whatever is typed then is edited
  int count = 0;
  const char* typed = el_gets(editor, &count);
  if (typed == nullptr || count <= 0) {
    const LineInfo* info = el_line(editor);
    std::string text(info->buffer, info->lastchar);
    el_reset(editor);
    return {impl_->interrupted ? Event::kInterrupt : Event::kEnd, std::move(text)};
  }
  std::string text(typed, static_cast<std::size_t>(count));
  if (text.ends_with('\n')) text.pop_back();
  if (!text.empty()) impl_->remember(text.c_str());
  return {Event::kLine, std::move(text)};
}

std::filesystem::path history_file() {
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return std::filesystem::path(value == nullptr ? "" : value);
  };
  std::filesystem::path state = variable("XDG_STATE_HOME");
  if (!state.is_absolute()) state = variable("HOME") / ".local/state";
  return state.is_absolute() ? state / "nibble/history" : "";
}

}  // namespace nibble::cli
