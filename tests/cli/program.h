// Shared by the tests of the command line: running the built program, alone or in a terminal of its own.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "tests/places.h"

namespace nibble::testing {

using Json = nlohmann::json;
using Arguments = std::vector<std::string>;

inline const std::string kBundled = bundled_model();

inline std::string golden_model(const std::string& name) { return fixtures_dir() + "/models/" + name; }

/// A new empty folder, removed with everything in it.
class TempDir {
 public:
  TempDir() {
    static std::atomic<int> counter = 0;
    path_ = std::filesystem::temp_directory_path() /
            ("nibble-cli-" + std::to_string(::getpid()) + "-" + std::to_string(counter++));
    std::filesystem::create_directories(path_);
  }
  ~TempDir() { std::filesystem::remove_all(path_); }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

inline std::string write_file(const std::string& file, std::string_view text) {
  std::ofstream(file, std::ios::binary).write(text.data(), static_cast<std::streamsize>(text.size()));
  return file;
}

inline std::string read_file(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

inline std::vector<char*> argv_of(Arguments& arguments) {
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  return argv;
}

/// The exit code of a process that ended; minus the signal that ended it.
inline int wait_for_exit(pid_t pid) {
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

struct Result {
  int code;
  std::string out, err;
};

/// The program with its input and output in files.
class Process {
 public:
  explicit Process(Arguments arguments, std::string_view input = "") {
    arguments.insert(arguments.begin(), program());
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    constexpr int kWrite = O_WRONLY | O_CREAT | O_TRUNC;
    posix_spawn_file_actions_addopen(&actions, 0, write_file(folder_ / "in", input).c_str(), O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, (folder_ / "out").c_str(), kWrite, 0600);
    posix_spawn_file_actions_addopen(&actions, 2, (folder_ / "err").c_str(), kWrite, 0600);
    posix_spawnattr_t attributes;  // however the tests were started, signals end the program
    posix_spawnattr_init(&attributes);
    sigset_t ending;
    sigemptyset(&ending);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&ending, signal);
    posix_spawnattr_setsigdefault(&attributes, &ending);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
    const int error =
        ::posix_spawn(&pid_, program().c_str(), &actions, &attributes, argv_of(arguments).data(), ::environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    if (error != 0) throw std::runtime_error(program() + ": " + std::strerror(error));
  }

  pid_t pid() const { return pid_; }
  std::string out() const { return read_file(folder_ / "out"); }

  /// Returns once a handler waits for the signal; after a minute in any case.
  void wait_until_it_catches(int signal) const {
    const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (std::chrono::steady_clock::now() < end) {
      const std::string status = read_file("/proc/" + std::to_string(pid_) + "/status");
      const std::size_t caught = status.find("SigCgt:");
      if (caught != std::string::npos &&
          (std::stoull(status.substr(caught + 7), nullptr, 16) >> (signal - 1) & 1) != 0) {
        return;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }

  Result wait() {
    const int code = wait_for_exit(pid_);
    return {code, out(), read_file(folder_ / "err")};
  }

 private:
  TempDir folder_;
  pid_t pid_ = 0;
};

inline Result run(Arguments arguments, std::string_view input = "") {
  return Process(std::move(arguments), input).wait();
}

/// Output of a run that must succeed.
inline std::string output(Arguments arguments, std::string_view input = "") {
  const Result result = run(std::move(arguments), input);
  EXPECT_EQ(result.code, 0) << result.err;
  return result.out;
}

inline Json json_output(Arguments arguments, std::string_view input = "") {
  arguments.emplace_back("--json");
  return Json::parse(output(std::move(arguments), input));
}

inline bool contains(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

/// The program in a pseudo-terminal, with a state folder of its own.
class Terminal {
 public:
  explicit Terminal(Arguments arguments) {
    arguments.insert(arguments.begin(), program());
    const std::string state = folder_ / "state";
    const std::vector<char*> argv = argv_of(arguments);
    pid_ = ::forkpty(&terminal_, nullptr, nullptr, nullptr);
    if (pid_ == 0) {
      ::setenv("XDG_STATE_HOME", state.c_str(), 1);
      ::setenv("TERM", "dumb", 1);
      ::execv(arguments.front().c_str(), argv.data());
      ::_exit(127);
    }
  }
  ~Terminal() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      wait_for_exit(pid_);
    }
    ::close(terminal_);
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  void type(std::string_view text) {
    ASSERT_EQ(::write(terminal_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }

  /// Waits until `text` has come since the last call and returns what came up to its end; fails after a minute.
  std::string wait_for(std::string_view text) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (std::chrono::steady_clock::now() < end) {
      if (const std::size_t at = seen_.find(text); at != std::string::npos) {
        std::string before = seen_.substr(0, at + text.size());
        seen_.erase(0, before.size());
        return before;
      }
      if (!read_some()) break;
    }
    ADD_FAILURE() << "waited for: " << text << "\nsaw: " << seen_;
    return "";
  }

  /// The same, and then until the program reads keys: its line editor shows the prompt first and only then takes the
  /// terminal out of line mode, which would echo and handle what is typed in between.
  std::string wait_for_prompt(std::string_view prompt) {
    std::string before = wait_for(prompt);
    const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (in_line_mode() && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return before;
  }

  /// The exit code, once the program has left by itself.
  int exit_code() {
    while (read_some()) {
    }
    const int code = wait_for_exit(pid_);
    pid_ = 0;
    return code;
  }

  std::string history() const { return read_file(folder_ / "state/nibble/history"); }

 private:
  bool in_line_mode() const {
    termios settings{};
    return ::tcgetattr(terminal_, &settings) == 0 && (settings.c_lflag & ICANON) != 0;
  }

  /// False when the program has closed the terminal.
  bool read_some() {
    pollfd ready{terminal_, POLLIN, 0};
    if (::poll(&ready, 1, 200) == 0) return true;
    char piece[4096];
    const ssize_t count = ::read(terminal_, piece, sizeof piece);
    if (count <= 0) return false;
    seen_.append(piece, static_cast<std::size_t>(count));
    return true;
  }

  TempDir folder_;
  int terminal_ = -1;
  pid_t pid_ = 0;
  std::string seen_;
};

}  // namespace nibble::testing
