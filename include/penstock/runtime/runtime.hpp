// The composition root: pools, bus, orderly shutdown.
// Floor 7, room runtime.
#pragma once

#include <penstock/base/export.hpp>
#include <penstock/base/failure.hpp>
#include <penstock/bus/event_bus.hpp>
#include <penstock/exec/environment.hpp>
#include <penstock/exec/worker_pool.hpp>
#include <penstock/runtime/shutdown_report.hpp>
#include <penstock/runtime/watchdog.hpp>

#include <chrono>
#include <memory>
#include <string>
#include <string_view>

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
  /// Told when a subscription's `failure_policy::escalate` asks the runtime to end: intake is closed already; whoever owns
  /// the runtime should call `shutdown`. Runs on the worker, must not wait. Default: logs one line.
  runtime_options& on_escalate(unique_function<void(const failure&)> hook) &;
  runtime_options&& on_escalate(unique_function<void(const failure&)> hook) &&;
  /// How long the destructor drains when nobody called `shutdown`. Default 5 s.
  runtime_options& shutdown_within(std::chrono::nanoseconds limit) &;
  runtime_options&& shutdown_within(std::chrono::nanoseconds limit) &&;
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
  /// Throws std::system_error with `errc::not_found` for a name no pool has.
  scheduler_ptr pool(std::string_view name) const;
  const clock& time() const noexcept;

  /// Stops intake (waiting publishers wake with `closed`), drains what is queued and what handlers still publish, gives
  /// up at the deadline, stops the pools and reports. Waits until the deadline at most, plus a moment. Idempotent: a
  /// second call, from any thread, waits for the first and returns its report. From a worker it begins the shutdown and
  /// returns a report of the moment; the rest happens when the runtime is destroyed or asked again from elsewhere.
  template <class Rep, class Period>
  shutdown_report shutdown(std::chrono::duration<Rep, Period> limit, std::string_view reason = "shutdown requested") {
    return shutdown_within(clamp_duration(limit), reason);
  }

 private:
  shutdown_report shutdown_within(std::chrono::nanoseconds limit, std::string_view reason);
  struct state;
  std::shared_ptr<state> state_;
};

}  // namespace penstock
