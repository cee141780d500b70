// One instant that any number of tasks and operations may wait for.
// Floor 2, room exec.
#pragma once

#include <penstock/base/clock.hpp>
#include <penstock/base/errc.hpp>
#include <penstock/base/export.hpp>
#include <penstock/exec/operation.hpp>
#include <penstock/exec/scheduler.hpp>

#include <chrono>
#include <cstddef>
#include <memory>
#include <utility>

namespace penstock {

namespace detail {

struct timer_state;

/// Waits for a timer's instant. Threads: as every operation.
class PENSTOCK_API timer_operation : public operation {
 public:
  explicit timer_operation(std::shared_ptr<timer_state> state) noexcept;
  bool start() noexcept;
  void cancel(cancel_force force) noexcept;
  bool gave_up() const noexcept { return cancelled_; }
  /// Why no timer could be had; none: it could.
  errc failed() const noexcept { return failed_; }
  bool came() const noexcept { return came_; }
  /// Throws std::system_error when no timer could be had.
  bool result() const;

 protected:
  ~timer_operation();

 private:
  friend struct timer_state;
  struct timer_slot {
    timer_node node;
    timer_operation* owner = nullptr;
  };
  void time_has_come() noexcept;
  bool called_off() noexcept;
  void drop_timer() noexcept;
  void drop() noexcept;

  const std::shared_ptr<timer_state> state_;
  bool came_ = false;
  bool cancelled_ = false;
  errc failed_ = errc::none;
  operation_holds holds_;
  timer_slot timer_;
  // Guarded by the timer's state.
  bool linked_ = false;
  timer_operation* next_ = nullptr;
  timer_operation* previous_ = nullptr;
};

}  // namespace detail

/// A timer: set once or again, called off from anywhere, waited for by any number of tasks and operations. It is due
/// until it is set. Holds no thread while it waits; in the simulation its time is virtual. May outlive its pool: a wait
/// is then refused with `closed`. Threads: thread-safe, but for moving it. Cost: each wait lives in its awaiter and
/// allocates nothing. Example of a period without drift: `t.expires_at(t.expiry() + period)`.
class PENSTOCK_API timer {
 public:
  /// On a pool's clock and timers. Throws std::bad_alloc; std::system_error (`invalid_argument`) without a pool.
  explicit timer(scheduler_ptr pool);
  timer(scheduler_ptr pool, steady_time due);
  template <class Rep, class Period>
  timer(scheduler_ptr pool, std::chrono::duration<Rep, Period> wait) : timer(std::move(pool)) {
    expires_after(wait);
  }
  timer(timer&& other) noexcept = default;
  timer& operator=(timer&& other) noexcept;
  /// Calls it off.
  ~timer();

  /// Sets the instant. Whoever waits is told as by `cancel`. Gives how many that were.
  std::size_t expires_at(steady_time due) noexcept;
  template <class Rep, class Period>
  std::size_t expires_after(std::chrono::duration<Rep, Period> wait) noexcept {
    return expires_within(clamp_duration(wait));
  }
  steady_time expiry() const noexcept;

  /// Ends all waits; the instant stays. Gives how many have been told by this call: one whose instant has come is not.
  std::size_t cancel() noexcept;

  /// For `co_await` in a task; gives a bool: true, the instant has come; false, it was called off or set anew.
  /// Cancel: at once. Throws std::system_error when no timer can be had (`not_enough_memory`, `closed`).
  [[nodiscard]] auto async_wait() const noexcept { return detail::operation_awaiter<detail::timer_operation>(state_); }
  /// The same with an Asio completion token, `void(boost::system::error_code)`, `operation_aborted` when it was called
  /// off; defined in `<penstock/exec/asio.hpp>`.
  template <class Token>
  auto async_wait(Token&& token) const;

 private:
  std::size_t expires_within(std::chrono::nanoseconds wait) noexcept;
  scheduler_ptr pool() const noexcept;
  std::shared_ptr<detail::timer_state> state_;
};

}  // namespace penstock
