// The composition root: pools, bus, orderly shutdown.
// Floor 7, room runtime.
#pragma once

#include <penstock/base/export.hpp>
#include <penstock/base/failure.hpp>
#include <penstock/bus/event_bus.hpp>
#include <penstock/exec/environment.hpp>
#include <penstock/exec/worker_pool.hpp>
#include <penstock/runtime/log.hpp>
#include <penstock/runtime/runtime_snapshot.hpp>
#include <penstock/runtime/shutdown_report.hpp>
#include <penstock/task/task_registry.hpp>
#include <penstock/runtime/watchdog.hpp>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace penstock {

/// How a runtime is built.
class PENSTOCK_API runtime_options {
 public:
  runtime_options();
  runtime_options(runtime_options&&) noexcept;
  runtime_options& operator=(runtime_options&&) noexcept;
  ~runtime_options();

  /// Adds a named pool, or changes how "default" or "blocking" is built.
  runtime_options& pool(std::string_view name, worker_pool_options options) &;
  runtime_options&& pool(std::string_view name, worker_pool_options options) &&;
  /// Told of each failed call, on the worker it failed on, the exception still current. Default: logs one line.
  runtime_options& on_failure(unique_function<void(const failure&)> hook) &;
  runtime_options&& on_failure(unique_function<void(const failure&)> hook) &&;
  /// Told of each publish that no subscription matched, with the event's name. Default: nothing.
  runtime_options& on_unmatched(unique_function<void(const std::string&)> hook) &;
  runtime_options&& on_unmatched(unique_function<void(const std::string&)> hook) &&;
  /// Told when a subscription's `failure_policy::escalate`, or a task's `restart_policy::escalate`, asks the runtime to end: the
  /// shutdown has been requested already (see `wait_for_shutdown`). Runs on the worker, must not wait. Default: logs one line.
  runtime_options& on_escalate(unique_function<void(const failure&)> hook) &;
  runtime_options&& on_escalate(unique_function<void(const failure&)> hook) &&;
  /// How long the destructor drains when nobody called `shutdown`. Default 5 s.
  runtime_options& shutdown_within(std::chrono::nanoseconds limit) &;
  runtime_options&& shutdown_within(std::chrono::nanoseconds limit) &&;
  /// Where the runtime's records go; called with no lock held, by several threads at once, and by a stuck call that fails after
  /// the runtime has ended. What it throws is counted (`lost_log_records`), and said once on standard error. Default: spdlog, on
  /// standard error, a line each. Of one subscription's, task's or pool's failures ten a second are told; how many more there
  /// were comes with the next failure after that second, whosever it is, and at the latest when the runtime is destroyed.
  runtime_options& log_to(unique_function<void(const log_record&)> sink) &;
  runtime_options&& log_to(unique_function<void(const log_record&)> sink) &&;
  /// The lowest level that is said. Default: info.
  runtime_options& log_from(log_level least) &;
  runtime_options&& log_from(log_level least) &&;
  /// Signals that ask for the shutdown: the first one requests it, the second forces it, a third has its default
  /// effect; until the runtime's end, its destructor's waiting included. Default: none; a library does not touch them.
  /// One runtime in a process may; a second one throws `already_exists`.
  runtime_options& stop_on_signals(std::vector<int> signals) &;
  runtime_options&& stop_on_signals(std::vector<int> signals) &&;
  /// What names a call, a pool or a chain of waits while it is stuck. Default: one with default options, which logs a line;
  /// in a simulation none.
  runtime_options& watchdog(watchdog_options options) &;
  runtime_options&& watchdog(watchdog_options options) &&;
  /// What to run on; a simulation gives its own. Default: real threads and time.
  runtime_options& environment(std::shared_ptr<execution_environment> made) &;
  runtime_options&& environment(std::shared_ptr<execution_environment> made) &&;

  struct fields;
  fields& get() noexcept { return *fields_; }
  bool moved_from() const noexcept { return fields_ == nullptr; }

 private:
  fields& made();
  std::unique_ptr<fields> fields_;
};

/// Pools, bus and shutdown in one object. Pools "default" (runs subscriptions) and "blocking" (posted work that may wait)
/// always exist. No global state: several runtimes in one process are independent.
class PENSTOCK_API runtime {
 public:
  /// Throws std::system_error when a thread cannot start; nothing is left running then.
  runtime();
  explicit runtime(runtime_options options);
  runtime(const runtime&) = delete;
  runtime& operator=(const runtime&) = delete;
  /// Shuts down if nobody did, within the limit of the options, and logs a report that is not clean.
  ~runtime();

  event_bus& bus() noexcept;
  /// The background tasks. They end with the runtime, in the order of its shutdown.
  task_registry& tasks() noexcept;
  /// Throws std::system_error with `errc::not_found` for a name no pool has.
  scheduler_ptr pool(std::string_view name) const;
  const clock& time() const noexcept;
  /// Pools, tasks and bus as they are now, also during the end and after it. Stops nothing, waits for nothing.
  /// Throws std::bad_alloc.
  runtime_snapshot snapshot() const;
  /// Records that reached nobody: the sink threw, or there was no memory for them.
  std::uint64_t lost_log_records() const noexcept;

  /// Asks the tasks that stop first to end, stops intake (waiting publishers wake with `closed`), drains what is queued and what
  /// handlers still publish (events that are caused by each other for 64 generations; then that is refused, and the
  /// report's `loop` says whose), gives what is left to whoever asks with `on_undelivered`, asks the kept tasks, gives up
  /// at the deadline, stops the pools and reports. Waits until the
  /// deadline at most, plus a moment. Idempotent: a second call, from any thread, waits for the first and returns its report;
  /// the first one's budget and reason stay. From a worker it only requests the shutdown and returns a report of the moment;
  /// the rest happens in `wait_for_shutdown`, in another `shutdown`, or when the runtime is destroyed. Not on the only thread of
  /// an executor that subscriptions run on: their events could not be handled meanwhile.
  template <class Rep, class Period>
  shutdown_report shutdown(std::chrono::duration<Rep, Period> limit, std::string_view reason = "shutdown requested") {
    return shutdown_within(clamp_duration(limit), reason);
  }
  /// Begins the shutdown within the limit of the options, and waits for nothing: from anywhere, but not from a signal
  /// handler. Without memory too: then of the reason only the first few bytes stay, and a mark.
  void request_shutdown(std::string_view reason) noexcept;
  /// Ends a shutdown that has begun now: what still runs is asked to stop and left, by name. From anywhere; waits for nothing.
  void force_shutdown() noexcept;
  bool shutdown_requested() const noexcept;
  /// For a service's main thread: waits until somebody requests the shutdown, then does it. Throws std::system_error
  /// (`would_deadlock`) where waiting is not allowed.
  shutdown_report wait_for_shutdown();

 private:
  shutdown_report shutdown_within(std::chrono::nanoseconds limit, std::string_view reason);
  struct state;
  std::shared_ptr<state> state_;
};

}  // namespace penstock
