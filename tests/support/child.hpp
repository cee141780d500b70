// Runs a piece of a test in a child process, whose crash or hang becomes a status.
// Floor 9, room tests.
#pragma once

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>

#include <sys/wait.h>
#include <unistd.h>

/// There in a build that counts lines and branches: writes the counts, which `_exit` does not.
extern "C" [[gnu::weak]] void __gcov_dump();

namespace penstock_test {

/// Forks, runs `body` in the child, and gives what it returned as "exit N", or "signal N" when the child was killed: by
/// a crash, or by SIGALRM (14) when it hung. The child ends by `_exit`; a body that wants static destructors calls
/// `exit`.
template <class Body>
std::string in_child(Body body) {
  std::cout.flush();
  std::cerr.flush();
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child < 0) return "no child";
  if (child == 0) {
    for (const int each : {SIGALRM, SIGABRT, SIGSEGV, SIGTERM}) std::signal(each, SIG_DFL);
    alarm(20);
    int code = 99;
    try {
      code = body();
    } catch (...) {
    }
    if (&__gcov_dump != nullptr) __gcov_dump();
    _exit(code);
  }
  int status = 0;
  if (waitpid(child, &status, 0) != child) return "no status";
  if (WIFSIGNALED(status)) return "signal " + std::to_string(WTERMSIG(status));
  return "exit " + std::to_string(WEXITSTATUS(status));
}

}  // namespace penstock_test
