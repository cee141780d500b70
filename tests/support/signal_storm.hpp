// A signal every millisecond, while it lives: every wait of a thread that takes it ends with EINTR, again and again.
// Floor 9, room tests.
#pragma once

#include <atomic>
#include <csignal>
#include <ctime>

namespace penstock_test {

class signal_storm {
 public:
  signal_storm() {
    came_ = 0;
    struct sigaction action {};
    action.sa_handler = [](int) { ++came_; };  // without SA_RESTART
    sigaction(SIGUSR2, &action, &before_);
    struct sigevent event {};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGUSR2;
    timer_create(CLOCK_MONOTONIC, &event, &timer_);
    struct itimerspec often {};
    often.it_value.tv_nsec = often.it_interval.tv_nsec = 1'000'000;
    timer_settime(timer_, 0, &often, nullptr);
  }
  signal_storm(const signal_storm&) = delete;
  signal_storm& operator=(const signal_storm&) = delete;
  ~signal_storm() {
    timer_delete(timer_);
    std::signal(SIGUSR2, SIG_IGN);  // the last one may not have been taken yet
    sigaction(SIGUSR2, &before_, nullptr);
  }
  /// How many signals there have been.
  static int signals() noexcept { return came_; }

 private:
  inline static std::atomic<int> came_{0};
  timer_t timer_{};
  struct sigaction before_ {};
};

}  // namespace penstock_test
