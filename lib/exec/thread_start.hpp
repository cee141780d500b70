// Starting a thread that blocks all signals and has a name.
// Floor 2, room exec.
#pragma once

#include <pthread.h>
#include <signal.h>

#include <string>
#include <thread>
#include <utility>

namespace penstock::exec {

/// Throws std::system_error when the thread cannot start. The new thread blocks every signal from its first instruction,
/// so that the application's choice of signal-handling threads stays its own.
template <class F>
std::thread start_thread(F&& body) {
  struct mask_keeper {
    sigset_t before;
    mask_keeper() noexcept {
      sigset_t all;
      sigfillset(&all);
      pthread_sigmask(SIG_SETMASK, &all, &before);
    }
    ~mask_keeper() { pthread_sigmask(SIG_SETMASK, &before, nullptr); }
  } keeper;
  return std::thread(std::forward<F>(body));
}

/// The kernel keeps 15 characters: a longer name loses its middle, not its number.
inline void name_this_thread(const std::string& name, const std::string& number = {}) noexcept {
  constexpr std::size_t longest = 15;
  const std::size_t room = longest - (number.size() < longest ? number.size() : longest);
  pthread_setname_np(pthread_self(), (name.substr(0, room) + number).substr(0, longest).c_str());
}

}  // namespace penstock::exec
