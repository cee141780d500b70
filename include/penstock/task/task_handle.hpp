// A handle to one background task: its end, its result, and the request to stop it.
// Floor 4, room task.
#pragma once

#include <penstock/base/export.hpp>
#include <penstock/base/unique_function.hpp>
#include <penstock/exec/operation.hpp>
#include <penstock/exec/run.hpp>
#include <penstock/task/task_report.hpp>

#include <chrono>
#include <cstdint>
#include <exception>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace penstock {

namespace detail {

class task_entry;

/// Waits for the end of a task. Threads: as every operation.
class PENSTOCK_API task_wait_operation : public operation {
 public:
  explicit task_wait_operation(task_entry* entry) noexcept;
  bool start() noexcept;
  void cancel(cancel_force force) noexcept;
  bool gave_up() const noexcept { return cancelled_; }
  task_status result() const noexcept;

 protected:
  ~task_wait_operation();

 private:
  friend class task_entry;
  void has_ended() noexcept;
  void drop() noexcept;

  task_entry* const entry_;
  bool cancelled_ = false;
  operation_holds holds_;
  // Guarded by the entry.
  bool linked_ = false;
  task_wait_operation* next_ = nullptr;
  task_wait_operation* previous_ = nullptr;
};

}  // namespace detail

/// Refers to one task; copies refer to the same. Dropping it does nothing to the task. May outlive registry and runtime.
/// An empty one answers `closed`. Threads: thread-safe.
class PENSTOCK_API task_handle {
 public:
  task_handle() noexcept = default;
  explicit task_handle(detail::task_entry* adopted) noexcept : entry_(adopted) {}
  task_handle(const task_handle& other) noexcept;
  task_handle(task_handle&& other) noexcept : entry_(std::exchange(other.entry_, nullptr)) {}
  task_handle& operator=(task_handle other) noexcept {
    std::swap(entry_, other.entry_);
    return *this;
  }
  ~task_handle();

  std::string name() const;
  std::uint64_t id() const noexcept;
  task_status status() const noexcept;
  bool done() const noexcept { return status() != task_status::running; }
  task_info info() const;
  /// What it threw, `cancelled` among that; null: it has not ended, or has not thrown.
  std::exception_ptr error() const noexcept;

  /// Asks it to stop: a coroutine gets `cancelled` from its next await, a function's stop token is set (its callbacks run
  /// here). The first request stays. False: it had ended, or had been asked already.
  bool request_cancel(std::string_view reason = {}, std::string_view who = {}) const noexcept;

  /// Waits for its end; from then on none of its code runs, and its closure and frames have been destroyed.
  /// Throws std::system_error (`would_deadlock`) in a handler, a hook, a task or posted work that may not wait; in the
  /// task itself, whatever the deadline; and, without a deadline, in a task's function that this task waits for in the
  /// same way, itself or through others.
  task_status wait() const { return wait_until(no_deadline); }
  /// `running`: the time passed first.
  task_status wait_until(steady_time deadline) const;
  template <class Rep, class Period>
  task_status wait_for(std::chrono::duration<Rep, Period> limit) const {
    return wait_within(clamp_duration(limit));
  }
  /// For `co_await` in a task; gives a task_status. Cancel: at once; the task that is waited for goes on.
  [[nodiscard]] auto async_wait() const noexcept {
    return detail::operation_awaiter<detail::task_wait_operation>(entry_);
  }
  /// With an Asio completion token, `void(boost::system::error_code, penstock::task_status)`; defined in
  /// `<penstock/task/asio.hpp>`.
  template <class Token>
  auto async_wait(Token&& token) const;

  /// Calls `told` once, when it has ended or at once if it has: scheduled on its pool, never on the caller's stack; but when
  /// the pool itself has ended, on the stack of whoever ends it, or on the caller's. What it throws goes to `on_failure`.
  /// Throws std::bad_alloc.
  void on_done(unique_function<void(const task_handle&)> told) const;

  explicit operator bool() const noexcept { return entry_ != nullptr; }

 protected:
  scheduler_ptr completion_pool() const noexcept;
  steady_time deadline_after(std::chrono::nanoseconds limit) const noexcept;
  task_status wait_within(std::chrono::nanoseconds limit) const { return wait_until(deadline_after(limit)); }
  detail::task_entry* entry_ = nullptr;
};

}  // namespace penstock
