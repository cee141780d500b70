// Signals as calls on a thread.
// Floor 7, room runtime.
#include <penstock/runtime/signal_watcher.hpp>

#include <penstock/base/errc.hpp>
#include <penstock/exec/service_thread.hpp>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <string>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

namespace penstock {
namespace {

// The one thing of the process: which pipe the handler writes to, and whose it is. Nothing else can reach a signal handler.
std::atomic<int> pipe_to_watcher{-1};
std::atomic<pid_t> watching_process{0};
std::atomic<int> handlers_inside{0};
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<pid_t>::is_always_lock_free);

extern "C" void penstock_signal_came(int signal) {
  const int before = errno;
  handlers_inside.fetch_add(1);
  if (getpid() != watching_process.load()) {  // a child: the pipe is its parent's
    ::signal(signal, SIG_DFL);
    raise(signal);
  } else {
    const auto byte = static_cast<unsigned char>(signal);
    // A full pipe holds enough signals already.
    [[maybe_unused]] const auto written = write(pipe_to_watcher.load(), &byte, 1);
  }
  handlers_inside.fetch_sub(1);
  errno = before;
}

constexpr unsigned char the_end = 0;  // no signal's number

/// The next watcher may come. Nobody writes to this one's pipe any more, whose number may soon be another file's.
void stop_watching() noexcept {
  pipe_to_watcher.store(-1);
  while (handlers_inside.load() != 0) sched_yield();  // on other threads, for a few instructions
  watching_process.store(0);
}

}  // namespace

struct signal_watcher::state {
  const pid_t made_in = getpid();
  int ends[2] = {-1, -1};
  std::vector<std::pair<int, struct sigaction>> before;
  unique_function<void(int, unsigned)> told;
  detail::service_thread thread;

  void restore() noexcept {
    // The last one first: a signal that was given twice gets what was before both.
    for (auto each = before.rbegin(); each != before.rend(); ++each) sigaction(each->first, &each->second, nullptr);
    before.clear();
  }
  void read_signals() noexcept {
    unsigned times = 0;
    for (;;) {
      unsigned char byte = the_end;
      const auto got = read(ends[0], &byte, 1);
      if (got < 0 && errno == EINTR) continue;
      if (got != 1 || byte == the_end) return;
      try {
        told(byte, ++times);
      } catch (...) {  // nobody to tell
      }
    }
  }
  ~state() {
    for (const int each : ends)
      if (each >= 0) ::close(each);
  }
};

signal_watcher::signal_watcher(const std::vector<int>& signals, unique_function<void(int, unsigned)> told)
    : state_(std::make_shared<state>()) {
  state& s = *state_;
  s.told = std::move(told);
  if (pipe2(s.ends, O_CLOEXEC) != 0)
    throw std::system_error(errno, std::generic_category(), "signal_watcher: no pipe could be made");
  fcntl(s.ends[1], F_SETFL, O_NONBLOCK);  // the handler must not wait
  const pid_t self = s.made_in;
  pid_t owner = watching_process.load();
  if (owner != 0 && owner != self) {  // what a child has from its parent
    pipe_to_watcher.store(-1);
    handlers_inside.store(0);
  }
  if (owner == self || !watching_process.compare_exchange_strong(owner, self))
    throw std::system_error(make_error_code(errc::already_exists),
                            "signal_watcher: this process has one already; signals belong to the process");
  pipe_to_watcher.store(s.ends[1]);
  try {
    s.thread = detail::service_thread("penstock-signals", [kept = state_] { kept->read_signals(); });
    for (const int number : signals) {
      struct sigaction action {};
      action.sa_handler = &penstock_signal_came;
      action.sa_flags = SA_RESTART;
      sigemptyset(&action.sa_mask);
      struct sigaction old {};
      if (number <= 0 || sigaction(number, &action, &old) != 0)
        throw std::system_error(make_error_code(errc::invalid_argument),
                                "signal_watcher: signal " + std::to_string(number) + " cannot be handled");
      s.before.emplace_back(number, old);
    }
  } catch (...) {
    s.restore();
    static_cast<void>(write(s.ends[1], &the_end, 1));
    static_cast<void>(s.thread.join());
    stop_watching();
    throw;
  }
}

signal_watcher::~signal_watcher() {
  if (getpid() != state_->made_in) return;  // a child: its thread did not come along, the actions mend themselves
  static_cast<void>(write(state_->ends[1], &the_end, 1));
  static_cast<void>(state_->thread.join());
  state_->restore();  // now that nobody gives a signal its default effect any more
  stop_watching();
}

void signal_watcher::restore_default(int signal) noexcept { ::signal(signal, SIG_DFL); }

}  // namespace penstock
