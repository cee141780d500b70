// How a background task is run, started again, and stopped.
// Floor 4, room task.
#pragma once

#include <penstock/base/clock.hpp>
#include <penstock/base/export.hpp>
#include <penstock/exec/retry_policy.hpp>
#include <penstock/exec/scheduler.hpp>

#include <chrono>
#include <optional>
#include <utility>

namespace penstock {

/// When a shutdown asks a task to stop.
enum class stop_order : unsigned char {
  stop_first,          ///< before the intake closes: it may publish until it ends
  keep_until_drained,  ///< after the last event has been handled: what handlers depend on
};

/// What a periodic task does about ticks that came due while it was still busy.
enum class missed_ticks : unsigned char {
  skip,   ///< they are counted and left out; the next one comes at its own instant
  delay,  ///< they are forgotten: the next one comes a whole period after the end of this one
  burst,  ///< they are made up for, one after the other, without a pause
};

/// Starts a task that failed again, as long as it does not fail too often. The setters check nothing; `spawn` does.
class PENSTOCK_API restart_policy {
 public:
  restart_policy() noexcept = default;

  /// How many restarts there may be within the window; at least 1. One failure more, and the task has failed for good. Default 5.
  restart_policy& attempts(unsigned count) & { return attempts_ = count, *this; }
  restart_policy&& attempts(unsigned count) && { return static_cast<restart_policy&&>(attempts(count)); }
  /// The window. Default one minute.
  template <class Rep, class Period>
  restart_policy& within(std::chrono::duration<Rep, Period> window) & {
    return within_ = clamp_duration(window), *this;
  }
  template <class Rep, class Period>
  restart_policy&& within(std::chrono::duration<Rep, Period> window) && {
    return static_cast<restart_policy&&>(within(window));
  }
  /// How long the pauses are: after the first failure within the window, the second, …. Its own attempts do not count.
  restart_policy& pauses(const retry_policy& delays) & { return pauses_ = delays, *this; }
  restart_policy&& pauses(const retry_policy& delays) && { return static_cast<restart_policy&&>(pauses(delays)); }
  /// A task that has failed for good also asks the runtime to end, as `failure_policy::escalate` does.
  restart_policy& escalate(bool yes = true) & { return escalate_ = yes, *this; }
  restart_policy&& escalate(bool yes = true) && { return static_cast<restart_policy&&>(escalate(yes)); }

  unsigned attempts() const noexcept { return attempts_; }
  std::chrono::nanoseconds within() const noexcept { return within_; }
  const retry_policy& pauses() const noexcept { return pauses_; }
  bool escalates() const noexcept { return escalate_; }
  /// What is wrong with it; null: nothing.
  const char* complaint() const noexcept;

 private:
  unsigned attempts_ = 5;
  std::chrono::nanoseconds within_ = std::chrono::minutes(1);
  retry_policy pauses_;
  bool escalate_ = false;
};

/// How one task is spawned.
class PENSTOCK_API spawn_options {
 public:
  spawn_options() noexcept = default;

  /// Where it runs. Default: a function on "blocking", where it may wait; a coroutine on "default".
  spawn_options& on(scheduler_ptr pool) & { return pool_ = std::move(pool), *this; }
  spawn_options&& on(scheduler_ptr pool) && { return static_cast<spawn_options&&>(on(std::move(pool))); }
  /// Default: stop_first.
  spawn_options& order(stop_order when) & { return order_ = when, *this; }
  spawn_options&& order(stop_order when) && { return static_cast<spawn_options&&>(order(when)); }
  spawn_options& keep_until_drained() & { return order(stop_order::keep_until_drained); }
  spawn_options&& keep_until_drained() && { return static_cast<spawn_options&&>(keep_until_drained()); }
  /// For what can be called again: a function, or a function that makes the coroutine. Default: a failure is the end.
  spawn_options& restart(const restart_policy& policy) & { return restart_ = policy, *this; }
  spawn_options&& restart(const restart_policy& policy) && { return static_cast<spawn_options&&>(restart(policy)); }

  const scheduler_ptr& pool() const noexcept { return pool_; }
  stop_order order() const noexcept { return order_; }
  const std::optional<restart_policy>& restart() const noexcept { return restart_; }

 private:
  scheduler_ptr pool_;
  stop_order order_ = stop_order::stop_first;
  std::optional<restart_policy> restart_;
};

}  // namespace penstock
