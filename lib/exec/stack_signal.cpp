// The handler that takes a stack, and who asks it.
// Floor 2, room exec.
#include "exec/stack_signal.hpp"

#include "base/demangle.hpp"
#include "base/mutex.hpp"
#include "sync/parker.hpp"

#include <penstock/base/clock.hpp>
#include <penstock/base/errc.hpp>

#include <dlfcn.h>
#include <execinfo.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <system_error>

namespace penstock::exec {
namespace {

constexpr int most_frames = 64;
constexpr std::chrono::milliseconds patience{100};

/// How the handler and the one who asks share the buffer. `state`:
///   free → (the asker) asked → (the handler, if it is the thread meant) taking → (the handler) taken → (the asker) free
///   asked → (the asker, who has waited long enough) free: a signal that comes later finds nothing to do.
/// From `taking` on the handler owns the buffer until it says `taken`; before and after, the asker does.
struct shared_answer {
  static constexpr std::uint32_t free = 0;
  static constexpr std::uint32_t asked = 1;
  static constexpr std::uint32_t taking = 2;
  static constexpr std::uint32_t taken = 3;
  sync::atomic<std::uint32_t> state{free};
  std::atomic<pid_t> thread{0};
  int frames = 0;
  void* interrupted = nullptr;  // where the thread stood: what lies above it is the handler's
  void* frame[most_frames] = {};

  sync::atomic<std::uint32_t> holder{0};  // the process of the one who asks; 0: nobody. A child of a fork takes it over
};
shared_answer shared;

/// Per signal: how many want it, and what was there before. The handler reads `before` only, which is complete before the
/// handler is installed.
struct signal_place {
  unsigned users = 0;
  bool ours = false;
  struct sigaction before {};
};
mutex places_m;  // protects what follows, but for the handler; taken with no other lock held
signal_place places[NSIG];

pid_t own_thread() noexcept { return static_cast<pid_t>(syscall(SYS_gettid)); }

void* place_of_interruption(const void* context) noexcept {
#if defined(__x86_64__)
  return reinterpret_cast<void*>(static_cast<const ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
#elif defined(__aarch64__)
  return reinterpret_cast<void*>(static_cast<const ucontext_t*>(context)->uc_mcontext.pc);
#else
  static_cast<void>(context);
  return nullptr;
#endif
}

void pass_on(int number, siginfo_t* info, void* context) noexcept {
  const struct sigaction& before = places[number].before;
  if ((before.sa_flags & SA_SIGINFO) != 0) {
    if (before.sa_sigaction != nullptr) before.sa_sigaction(number, info, context);
  } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
    before.sa_handler(number);
  }
}

// Async-signal-safe: atomics, system calls, and backtrace, whose unwinder has been loaded before.
void on_signal(int number, siginfo_t* info, void* context) noexcept {
  const int errno_before = errno;
  if (info == nullptr || info->si_code != SI_QUEUE || info->si_value.sival_ptr != &shared) {
    pass_on(number, info, context);
  } else if (shared.thread.load() == own_thread()) {
    std::uint32_t asked = shared_answer::asked;
    if (shared.state.compare_exchange_strong(asked, shared_answer::taking)) {
      shared.interrupted = place_of_interruption(context);
      shared.frames = backtrace(shared.frame, most_frames);
      shared.state.store(shared_answer::taken);
      sync::unpark_all(&shared.state);
    }
  }
  errno = errno_before;
}

bool harmless_by_default(int number) noexcept {
  return number == SIGURG || number == SIGCHLD || number == SIGWINCH || number == SIGCONT;
}

std::string describe(void* address, bool innermost) {
  // A return address may lie behind the end of a function whose last instruction is the call.
  auto* const at = static_cast<char*>(address) - (innermost ? 0 : 1);
  Dl_info found{};
  char offset[32];
  if (dladdr(at, &found) == 0 || found.dli_fname == nullptr) {
    std::snprintf(offset, sizeof offset, "%p", address);
    return offset;
  }
  if (found.dli_sname != nullptr) return demangle(found.dli_sname);
  // No name: what `addr2line -e module offset` takes.
  const char* module = std::strrchr(found.dli_fname, '/');
  std::snprintf(offset, sizeof offset, "+0x%zx", static_cast<std::size_t>(at - static_cast<char*>(found.dli_fbase)));
  return (module != nullptr ? module + 1 : found.dli_fname) + std::string(offset);
}

}  // namespace

stack_signal::stack_signal(int number) : number_(number) {
  const auto refuse = [&] {
    throw std::system_error(make_error_code(errc::invalid_argument),
                            "watchdog: signal " + std::to_string(number) + " cannot have a handler; choose another one");
  };
  struct sigaction now {};
  if (number <= 0 || number >= NSIG || number == SIGKILL || number == SIGSTOP || sigaction(number, nullptr, &now) != 0)
    refuse();
  void* ignored[2];
  backtrace(ignored, 2);  // loads the unwinder, which allocates
  lock_guard lock(places_m);
  ++places[number].users;
}

bool stack_signal::install() const noexcept {
  lock_guard lock(places_m);
  signal_place& place = places[number_];
  if (place.ours) return true;
  struct sigaction made {};
  made.sa_sigaction = &on_signal;
  made.sa_flags = SA_SIGINFO | SA_RESTART;
  sigfillset(&made.sa_mask);
  place.ours = sigaction(number_, nullptr, &place.before) == 0 && sigaction(number_, &made, nullptr) == 0;
  return place.ours;
}

stack_signal::~stack_signal() {
  lock_guard lock(places_m);
  signal_place& place = places[number_];
  if (--place.users > 0 || !place.ours) return;
  struct sigaction now {};
  if (sigaction(number_, nullptr, &now) != 0 || now.sa_sigaction != &on_signal) return;  // somebody calls ours from its own
  const bool by_default = (place.before.sa_flags & SA_SIGINFO) == 0 && place.before.sa_handler == SIG_DFL;
  if (by_default && !harmless_by_default(number_)) return;
  sigaction(number_, &place.before, nullptr);
  place.ours = false;
}

void stack_signal::answer_here() const noexcept {
  sigset_t one;
  sigemptyset(&one);
  sigaddset(&one, number_);
  pthread_sigmask(SIG_UNBLOCK, &one, nullptr);
  static_cast<void>(this_thread_slot());  // the handler uses it: from now on it needs no memory for that
}

stack_question::stack_question(const stack_signal& by) noexcept : number_(by.number()) {
  if (!by.install()) return;
  const auto own = static_cast<std::uint32_t>(getpid());
  const steady_time until = deadline_after(real_clock().now(), 2 * patience);
  for (;;) {
    std::uint32_t holder = 0;
    if (shared.holder.compare_exchange_strong(holder, own)) break;
    if (holder != own) {  // its asker did not come along into this process
      if (!shared.holder.compare_exchange_strong(holder, own)) continue;
      shared.state.store(shared_answer::free);
      break;
    }
    if (!sync::park(shared.holder, own, until)) return;
  }
  mine_ = true;
}

stack_question::~stack_question() {
  if (!mine_) return;
  if (asked_) {
    std::uint32_t asked = shared_answer::asked;
    if (!shared.state.compare_exchange_strong(asked, shared_answer::free)) {
      // It is being taken, by a thread that runs: the buffer is its own until then.
      while (shared.state.load() == shared_answer::taking) sync::park(shared.state, shared_answer::taking, no_deadline);
      shared.state.store(shared_answer::free);
    }
  }
  shared.holder.store(0);
  sync::unpark_all(&shared.holder);
}

bool stack_question::ask(pid_t thread) noexcept {
  if (!mine_ || asked_) return false;
  shared.thread.store(thread);
  shared.state.store(shared_answer::asked);
  asked_ = true;
  siginfo_t info{};
  info.si_code = SI_QUEUE;
  info.si_pid = getpid();
  info.si_uid = getuid();
  info.si_value.sival_ptr = &shared;
  return syscall(SYS_rt_tgsigqueueinfo, getpid(), thread, number_, &info) == 0;
}

std::vector<std::string> stack_question::answer() {
  const steady_time until = deadline_after(real_clock().now(), patience);
  for (;;) {
    const std::uint32_t seen = shared.state.load();
    if (seen == shared_answer::taken) break;
    // Past the time one that is being taken is still waited for: that thread runs.
    if (!sync::park(shared.state, seen, seen == shared_answer::taking ? no_deadline : until) &&
        shared.state.load() == shared_answer::asked)
      return {};
  }
  int first = 0;
  while (first < shared.frames && shared.frame[first] != shared.interrupted) ++first;
  if (first == shared.frames) first = shared.frames > 1 ? 1 : 0;  // not seen: then all but the handler
  std::vector<std::string> frames;
  for (int at = first; at < shared.frames; ++at) frames.push_back(describe(shared.frame[at], at == first));
  return frames;
}

}  // namespace penstock::exec
