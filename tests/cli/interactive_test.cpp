#include <gtest/gtest.h>

#include "program.h"
#include "runtime/cli/line_editor.h"
#include "runtime/cli/options.h"

namespace nibble::testing {
namespace {

/// Reads and writes text with the same bits, however it comes.
constexpr const char* kTarget = "portable";

/// A session that has shown its first prompt.
class Interactive : public ::testing::Test {
 protected:
  void start(Arguments more) {
    more.insert(more.begin(), {"generate", "-m", kBundled, "-t", "2", "--cpu-target", kTarget});
    terminal_ = std::make_unique<Terminal>(std::move(more));
    terminal_->wait_for("/help explains.");
    terminal_->wait_for_prompt("> ");
  }

  /// Types a line and returns what comes before the next prompt, without the echo of the line.
  std::string answer(const std::string& line) {
    terminal_->type(line + "\n");
    terminal_->wait_for(line + "\r\n");
    std::string text = terminal_->wait_for_prompt("\r\n> ");
    return text.substr(0, text.size() - std::min<std::size_t>(text.size(), 4));
  }

  std::unique_ptr<Terminal> terminal_;
};

std::string continuation(const std::string& prompt, const char* count) {
  std::string text = output({"generate", "-m", kBundled, "-t", "2", "--cpu-target", kTarget, "-p", prompt, "-n", count,
                             "--no-display-prompt"});
  text.pop_back();
  return text;
}

TEST_F(Interactive, GoesOnFromWhatIsTypedAndFromThere) {
  start({"-n", "6"});
  const std::string first = answer("Once upon a time");
  EXPECT_EQ(first, continuation("Once upon a time", "6"));
  EXPECT_EQ(answer(" and then"), continuation("Once upon a time" + first + " and then", "6"));
}

TEST_F(Interactive, ForgetsTheTextAtReset) {
  start({"-n", "6"});
  const std::string first = answer("The dog");
  answer(" barked");
  terminal_->type("/reset\n");
  terminal_->wait_for_prompt("> ");
  EXPECT_EQ(answer("The dog"), first);
}

TEST_F(Interactive, ExplainsItselfAndCounts) {
  start({"-n", "3"});
  const std::string help = answer("/help");
  for (const char* command : {"/help", "/set", "/reset", "/stats", "/quit", "Ctrl-C"})
    EXPECT_TRUE(contains(help, command));
  for (const cli::SamplingFlag& setting : cli::sampling_flags()) {
    EXPECT_TRUE(contains(help, setting.name())) << setting.names;
    EXPECT_TRUE(contains(help, setting.help)) << setting.names;
  }
  answer("The dog");
  const std::string stats = answer("/stats");
  EXPECT_TRUE(contains(stats, "Generation: ")) << stats;
  EXPECT_TRUE(contains(stats, "of 1024 tokens")) << stats;
  EXPECT_TRUE(contains(answer("/frob"), "'/frob': no such command"));
  EXPECT_TRUE(contains(answer("/set temp x"), "temp: expected 0 or a number from 1e-06 to 1e+06, found 'x'"));
  EXPECT_TRUE(contains(answer("/set frob 1"), "'frob': no such setting"));
  terminal_->type("/quit\n");
  EXPECT_EQ(terminal_->exit_code(), 0);
  EXPECT_TRUE(contains(terminal_->history(), "The\\040dog"));
}

TEST_F(Interactive, ReadsTextsOfManyLines) {
  start({"-n", "5"});
  terminal_->type("One\\\n");
  terminal_->wait_for_prompt(". ");
  EXPECT_EQ(answer("two"), continuation("One\ntwo", "5"));
  terminal_->type("/reset\n");
  terminal_->wait_for_prompt("> ");
  terminal_->type("\"\"\"\n");
  terminal_->wait_for_prompt(". ");
  terminal_->type("/one\n");
  terminal_->wait_for_prompt(". ");
  EXPECT_EQ(answer("two\"\"\""), continuation("/one\ntwo", "5"));
}

TEST_F(Interactive, StopsTheModelAtCtrlCAndGoesOn) {
  start({"-n", "-1", "--ignore-eos"});
  terminal_->type("Once upon a time\n");
  terminal_->wait_for("time\r\n");
  terminal_->wait_for(" ");  // the model has begun
  terminal_->type("\x03");
  const std::string stopped = terminal_->wait_for_prompt("\r\n> ");
  EXPECT_FALSE(contains(stopped, "the context is full"));
  EXPECT_TRUE(contains(answer("/stats"), "of 1024 tokens"));
}

TEST_F(Interactive, SaysWhenTheContextIsFull) {
  start({"-n", "-1", "--ignore-eos", "-c", "12"});
  EXPECT_TRUE(contains(answer("Once upon a time"), "the context is full: /reset"));
  EXPECT_TRUE(contains(answer(" and then more"), "prompt: expected at most 12 tokens (the context)"));
}

TEST_F(Interactive, LeavesAtCtrlDOrAtTheSecondCtrlC) {
  start({});
  terminal_->type("\x04");
  EXPECT_EQ(terminal_->exit_code(), 0);
  start({});
  terminal_->type("abc");
  terminal_->wait_for("abc");
  terminal_->type("\x03");
  const std::string cleared = terminal_->wait_for_prompt("> ");
  EXPECT_FALSE(contains(cleared, "again")) << "the first one cleared the line";
  terminal_->type("\x03");
  terminal_->wait_for("(Ctrl-C again or Ctrl-D leaves)");
  terminal_->wait_for_prompt("> ");
  terminal_->type("\x03");
  EXPECT_EQ(terminal_->exit_code(), 0);
}

TEST(HistoryFile, IsNeverInTheCurrentFolder) {
  const auto with = [](const char* home, const char* state) {
    ::setenv("HOME", home, 1);
    ::setenv("XDG_STATE_HOME", state, 1);
    return cli::history_file();
  };
  const std::string home = std::getenv("HOME") == nullptr ? "" : std::getenv("HOME");
  EXPECT_EQ(with("/home/a", ""), "/home/a/.local/state/nibble/history");
  EXPECT_EQ(with("/home/a", "/state"), "/state/nibble/history");
  EXPECT_EQ(with("/home/a", "state"), "/home/a/.local/state/nibble/history");
  EXPECT_EQ(with("", ""), "");
  ::unsetenv("XDG_STATE_HOME");
  ::unsetenv("HOME");
  EXPECT_EQ(cli::history_file(), "");
  ::setenv("HOME", home.c_str(), 1);
}

TEST(InteractiveSession, NeedsATokenizer) {
  Terminal terminal({"generate", "-m", golden_model("pre_norm")});
  terminal.wait_for("has no tokenizer, which an interactive session needs");
  EXPECT_EQ(terminal.exit_code(), 1);
}

}  // namespace
}  // namespace nibble::testing
