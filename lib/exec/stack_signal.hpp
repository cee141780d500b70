// The stack of another thread, by one signal.
// Floor 2, room exec.
#pragma once

#include <string>
#include <vector>

#include <sys/types.h>

namespace penstock::exec {

/// From the first question on, as long as one of a signal exists, the process has a handler for it that answers the questions
/// below and passes on every other occurrence to the handler that was there before; until then no signal's action is touched.
/// Installed with SA_RESTART; taken away with the last one, unless somebody has put a handler of its own over it, or a late
/// signal would then end the process.
///
/// The one global state of the library: a signal has one handler in a process. Threads: thread-safe. Two runtimes take
/// turns with their questions.
class stack_signal {
 public:
  /// Throws std::system_error (`invalid_argument`) for a number that is no signal, or one that no handler may be had for.
  explicit stack_signal(int number);
  ~stack_signal();
  stack_signal(const stack_signal&) = delete;
  stack_signal& operator=(const stack_signal&) = delete;
  int number() const noexcept { return number_; }
  /// Puts the handler in place, if it is not yet. False: the system refused.
  bool install() const noexcept;
  /// For a thread that is to answer: unblocks this signal, and no other.
  void answer_here() const noexcept;

 private:
  const int number_;
};

/// One question to one thread. Only one exists at a time; another one's maker waits, for 200 ms at most.
class stack_question {
 public:
  explicit stack_question(const stack_signal& by) noexcept;
  ~stack_question();
  stack_question(const stack_question&) = delete;
  stack_question& operator=(const stack_question&) = delete;
  /// Sends the signal. The caller sees to it that the thread exists. Waits: never. May be called with a lock held.
  bool ask(pid_t thread) noexcept;
  /// The frames, innermost first; empty when the thread has not answered within 100 ms. Throws std::bad_alloc.
  std::vector<std::string> answer();

 private:
  const int number_;
  bool mine_ = false;
  bool asked_ = false;
};

}  // namespace penstock::exec
