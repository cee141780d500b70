// The watchdog of a runtime: names what is stuck while it is stuck.
// Floor 7, room runtime.
#pragma once

#include <penstock/base/clock.hpp>
#include <penstock/base/export.hpp>
#include <penstock/base/unique_function.hpp>
#include <penstock/runtime/log.hpp>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace penstock {

/// What the watchdog has seen, as a value.
class PENSTOCK_API watchdog_report {
 public:
  enum class what : unsigned char {
    stuck_call,    ///< a handler's call that has gone on for too long
    stuck_task,    ///< a task that was asked to stop, a tick, or a function that takes no stop token, and has not ended; or
                   ///< one that keeps a worker: a coroutine that does not yield, a function on a pool that may not wait
    starved_pool,  ///< each worker is inside one call for too long, and work waits for one
    wait_chain,    ///< handlers, streams (under a delivery) and tasks that wait for each other, and nothing moves
    recovered,     ///< what was reported before, as `of` says, is over
  };
  watchdog_report();

  what kind = what::stuck_call;
  what of = what::stuck_call;  ///< the kind, or of `recovered` the kind of what is over
  std::string subscription;    ///< who; of a chain the first that waits, if it is no task
  std::string task;            ///< or that task
  std::string pool;
  std::string event;
  std::uint64_t sequence = 0;         ///< the event's; of a task which run of it, or which tick
  std::chrono::nanoseconds elapsed{};  ///< how long, at least: since it was first looked at
  bool suspended = false;              ///< it holds no thread: a coroutine that waits, mostly
  bool stop_requested = false;         ///< of a task: it has been asked to stop, and goes on
  std::string file;                    ///< where the subscription was made, or the task spawned
  unsigned line = 0;
  std::string thread;                 ///< `<pool>-<n>`; empty: on none of the runtime's
  std::vector<std::string> stack;     ///< where that thread stands, innermost first; empty: it did not say
  std::vector<std::string> chain;     ///< of a chain: each waits for the next; a ring ends with the name it begins with
  std::uint64_t waiting = 0;          ///< of a chain: how many wait for its end; of a pool: how much work waits

  /// As the default hook logs it: of the component "penstock.watchdog", a warning, or `info` when it is over.
  log_record record() const;
};

PENSTOCK_API const char* to_string(watchdog_report::what kind) noexcept;
/// One line: its record's.
PENSTOCK_API std::string to_string(const watchdog_report& report);

/// How a runtime is watched.
class PENSTOCK_API watchdog_options {
 public:
  watchdog_options();
  watchdog_options(watchdog_options&&) noexcept;
  watchdog_options& operator=(watchdog_options&&) noexcept;
  ~watchdog_options();

  /// How long is too long. What goes on is reported again at twice, four times, … that. Default 5 s, at least 1 ms.
  template <class Rep, class Period>
  watchdog_options& stuck_after(std::chrono::duration<Rep, Period> limit) & {
    return stuck_within(clamp_duration(limit));
  }
  template <class Rep, class Period>
  watchdog_options&& stuck_after(std::chrono::duration<Rep, Period> limit) && {
    return std::move(stuck_within(clamp_duration(limit)));
  }
  /// How often it looks while somebody works; at rest it sleeps. Default 1 s, at least 1 ms.
  template <class Rep, class Period>
  watchdog_options& every(std::chrono::duration<Rep, Period> period) & {
    return look_every(clamp_duration(period));
  }
  template <class Rep, class Period>
  watchdog_options&& every(std::chrono::duration<Rep, Period> period) && {
    return std::move(look_every(clamp_duration(period)));
  }
  /// Whether a stuck thread is asked where it stands, by a signal, whose handler is installed with the first question and
  /// taken away when the runtime ends. The thread's system calls go on (SA_RESTART), except those that no flag restarts,
  /// such as poll and nanosleep: they return EINTR. Default: no; never in a simulation.
  watchdog_options& stacks(bool yes) &;
  watchdog_options&& stacks(bool yes) &&;
  /// The same, and by which signal. The workers unblock this one and no other; what is not the watchdog's own goes on to the handler that
  /// was there before. Default SIGURG, which does nothing where nobody handles it; `SIGRTMIN + n` for a program that waits
  /// for SIGURG with sigwait or a signalfd.
  watchdog_options& stack_signal(int number) &;
  watchdog_options&& stack_signal(int number) &&;
  /// Told of each report, on the watchdog's own thread; must not wait, for nothing is watched meanwhile. Default: the
  /// runtime's log is.
  watchdog_options& on_report(unique_function<void(const watchdog_report&)> hook) &;
  watchdog_options&& on_report(unique_function<void(const watchdog_report&)> hook) &&;
  /// Whether there is one at all. Default: yes; in a simulation only when these options are given.
  watchdog_options& enabled(bool yes) &;
  watchdog_options&& enabled(bool yes) &&;

  struct fields;
  fields& get() noexcept { return *fields_; }
  bool moved_from() const noexcept { return fields_ == nullptr; }

 private:
  watchdog_options& stuck_within(std::chrono::nanoseconds limit);
  watchdog_options& look_every(std::chrono::nanoseconds period);
  fields& made();
  std::unique_ptr<fields> fields_;
};

}  // namespace penstock
