// What the threads of a run are called, so that a profile can tell who did it.
// Floor 9, bench.
#pragma once

#include <pthread.h>

#include <array>

namespace bench {

/// Threads that this one starts meanwhile are called `name`, of at most 15 letters, unless they name themselves: a new
/// thread has the name of the one that started it.
class threads_named {
 public:
  explicit threads_named(const char* name) noexcept {
    if (pthread_getname_np(pthread_self(), before_.data(), before_.size()) != 0) before_[0] = '\0';
    pthread_setname_np(pthread_self(), name);
  }
  ~threads_named() {
    if (before_[0] != '\0') pthread_setname_np(pthread_self(), before_.data());
  }
  threads_named(const threads_named&) = delete;
  threads_named& operator=(const threads_named&) = delete;

 private:
  std::array<char, 16> before_{};
};

}  // namespace bench
