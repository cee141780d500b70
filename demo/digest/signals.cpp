// Ctrl-C and its relatives: the first asks for an orderly end, the second ends at once.
// Floor 9, room demo.
#include "signals.hpp"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <system_error>
#include <utility>

namespace digest {

namespace {

sigset_t handled_signals() noexcept {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  // nohup asks for a run that outlives its terminal by ignoring SIGHUP.
  struct sigaction hangup {};
  if (::sigaction(SIGHUP, nullptr, &hangup) != 0 || hangup.sa_handler != SIG_IGN) sigaddset(&set, SIGHUP);
  return set;
}

descriptor make_event() {
  descriptor event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event) throw std::system_error(errno, std::generic_category(), "cannot make an event descriptor");
  return event;
}

void signal_event(int event) noexcept {
  const std::uint64_t one = 1;
  // Only an overflow of the counter could refuse this, and then the event is readable already.
  [[maybe_unused]] const ssize_t written = ::write(event, &one, sizeof one);
}

}  // namespace

void block_signals() noexcept {
  const sigset_t set = handled_signals();
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  ::signal(SIGPIPE, SIG_IGN);  // a reader that went away is an error of write(), with a message
}

namespace {

volatile std::sig_atomic_t code_when_late = 0;

extern "C" void leave_late(int) { ::_exit(code_when_late); }

}  // namespace

void leave_at_once(int code, const std::function<void()>& tidy) noexcept {
  // The kernel's timer: it needs no memory, no thread and no lock, and its signal finds whichever thread can take it.
  code_when_late = code;
  struct sigaction late {};
  late.sa_handler = leave_late;
  sigset_t alarm;
  sigemptyset(&alarm);
  sigaddset(&alarm, SIGALRM);
  itimerval limit{};
  limit.it_value.tv_usec = std::chrono::microseconds(longest_tidying).count();
  if (::sigaction(SIGALRM, &late, nullptr) == 0 && ::pthread_sigmask(SIG_UNBLOCK, &alarm, nullptr) == 0 &&
      ::setitimer(ITIMER_REAL, &limit, nullptr) == 0)
    tidy();
  ::_exit(code);
}

signal_watch::signal_watch(std::stop_source stop, std::function<void()> first, std::function<void(int)> second)
    : stop_(std::move(stop)), first_(std::move(first)), second_(std::move(second)), finished_(make_event()) {
  const sigset_t set = handled_signals();
  signals_ = descriptor(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_) throw std::system_error(errno, std::generic_category(), "cannot wait for signals");
  thread_ = std::thread([this] { watch(); });
}

signal_watch::~signal_watch() {
  signal_event(finished_.get());
  thread_.join();
}

void signal_watch::watch() {
  for (;;) {
    pollfd waits[] = {{signals_.get(), POLLIN, 0}, {finished_.get(), POLLIN, 0}};
    if (::poll(waits, 2, -1) < 0) continue;
    signalfd_siginfo info;
    while (::read(signals_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
      const int number = static_cast<int>(info.ssi_signo);
      int none = 0;
      if (received_.compare_exchange_strong(none, number)) {
        stop_.request_stop();
        first_();
      } else {
        second_(number);
      }
    }
    if (waits[1].revents != 0) return;
  }
}

stop_descriptor::stop_descriptor(const std::stop_token& stop)
    : event_(make_event()), callback_(stop, wake{event_.get()}) {}

void stop_descriptor::wake::operator()() const noexcept { signal_event(event); }

}  // namespace digest
