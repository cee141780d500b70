// Waiting for a time, in a task.
// Floor 2, room exec.
#pragma once

#include <penstock/base/clock.hpp>
#include <penstock/base/errc.hpp>
#include <penstock/base/export.hpp>
#include <penstock/exec/scheduler.hpp>
#include <penstock/exec/task.hpp>

#include <chrono>
#include <coroutine>

namespace penstock {

/// What `sleep_for`, `sleep_until` and `yield` give; for `co_await` in a task.
class PENSTOCK_API sleep_operation final : public detail::task_waiter, public detail::task_awaitable {
 public:
  enum class until : unsigned char { a_while, an_instant, next_turn };
  explicit sleep_operation(std::chrono::nanoseconds wait) noexcept : kind_(until::a_while), wait_(wait) {}
  explicit sleep_operation(steady_time due) noexcept : kind_(until::an_instant) { timer_.node.due = due; }
  sleep_operation() noexcept : kind_(until::next_turn) {}

  bool await_ready() const noexcept { return false; }
  template <class Promise>
  bool await_suspend(std::coroutine_handle<Promise> frame) noexcept {
    return begin(frame.promise().root(), frame);
  }
  void await_resume() const;
  void cancel() noexcept override;

 private:
  struct timer_slot {
    timer_node node;
    sleep_operation* owner = nullptr;
  };
  bool begin(detail::task_root& root, std::coroutine_handle<> frame) noexcept;

  until kind_;
  bool armed_ = false;
  bool cancelled_ = false;
  errc failed_ = errc::none;
  std::chrono::nanoseconds wait_{};
  timer_slot timer_;
};

/// Waits in a task: holds no thread, and no lane but the task's own. A wait of zero or less is `yield()`.
/// Cancel: at once. Throws std::system_error when no timer can be had (`not_enough_memory`, `closed`).
/// In the simulation virtual time passes.
template <class Rep, class Period>
[[nodiscard]] sleep_operation sleep_for(std::chrono::duration<Rep, Period> wait) noexcept {
  const std::chrono::nanoseconds clamped = clamp_duration(wait);
  return clamped.count() > 0 ? sleep_operation(clamped) : sleep_operation();
}
[[nodiscard]] inline sleep_operation sleep_until(steady_time due) noexcept { return sleep_operation(due); }
/// Lets others on this worker go first.
[[nodiscard]] inline sleep_operation yield() noexcept { return sleep_operation(); }

}  // namespace penstock
