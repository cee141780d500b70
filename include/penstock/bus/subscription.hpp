// The handle to a subscription: leaving, and looking at its ledger.
// Floor 5, room bus.
#pragma once

#include <penstock/base/clock.hpp>
#include <penstock/base/export.hpp>
#include <penstock/bus/ledger.hpp>
#include <penstock/exec/operation.hpp>

#include <chrono>
#include <string>
#include <string_view>
#include <type_traits>

namespace penstock {

enum class close_mode {
  stop_now,  ///< queued events are discarded, a running call ends by itself
  drain,     ///< queued events are handled first
  cancel,    ///< as stop_now, and the running call's stop token is set
};

enum class [[nodiscard]] close_status {
  closed,     ///< no code of the handler runs or will run; the closure has been destroyed
  closing,    ///< stopped; the rest happens when the last call has ended (asked from a worker, which may not wait)
  timed_out,  ///< the deadline passed; the subscription is abandoned: stopped, its queue discarded, the call left running
  would_deadlock,  ///< `async_close` in a call that it would wait for: it is stopped, the rest happens when the call ends
};
PENSTOCK_API const char* to_string(close_status status) noexcept;

/// What a subscription is doing.
enum class subscription_state : unsigned char {
  open,
  paused,    ///< its breaker has tripped: events wait, nothing is begun but a probe now and then
  draining,  ///< takes nothing more, handles what it has
  stopped,   ///< begins nothing more; a call may still be running
  ended,     ///< no code of the handler runs or will run
};
PENSTOCK_API const char* to_string(subscription_state state) noexcept;

namespace detail {

class subscription_core;

/// Closes a subscription and is told of its end. Threads: as every operation.
class PENSTOCK_API close_operation : public operation {
 public:
  close_operation(subscription_core* core, close_mode mode, std::chrono::nanoseconds limit) noexcept;
  bool start() noexcept;
  void cancel(cancel_force force) noexcept;
  bool gave_up() const noexcept { return cancelled_; }
  close_status result() const noexcept { return status_; }

 protected:
  ~close_operation();

 private:
  friend class close_access;
  struct timer_slot {
    timer_node node;
    close_operation* owner = nullptr;
  };
  static void deadline_passed(timer_node& fired) noexcept;
  void has_ended() noexcept;
  void give_up_waiting() noexcept;
  void drop_timer() noexcept;
  void drop() noexcept;
  void leave_lane() noexcept;

  subscription_core* const core_;
  const close_mode mode_;
  const std::chrono::nanoseconds limit_;
  close_status status_ = close_status::closed;
  bool cancelled_ = false;
  operation_holds holds_;
  timer_slot timer_;
  void* lane_ = nullptr;                     // the handler's lane it was started on
  close_operation* next_ = nullptr;          // the watchers of one subscription's end
  close_operation* next_of_lane_ = nullptr;  // those started on one lane
};

}  // namespace detail

/// Owns a subscription. The destructor is `close()`, or `stop()` on a worker. May outlive the bus and the runtime; every
/// operation then answers `closed`. Threads: per-object, except that `stop`, `close` and `ledger` may be called from any.
class [[nodiscard]] PENSTOCK_API subscription {
 public:
  subscription() noexcept = default;
  subscription(subscription&& other) noexcept;
  subscription& operator=(subscription&& other) noexcept;
  subscription(const subscription&) = delete;
  subscription& operator=(const subscription&) = delete;
  ~subscription();

  /// No new call starts, queued events are discarded, waiting publishers are released with `closed`.
  /// Waits: never. Destroys no closure on this stack.
  void stop() noexcept;

  /// Ends the subscription. From `closed` on, no code of the handler runs on any thread and the closure has been
  /// destroyed. Waits for running calls, except on a worker of any pool, where it returns `closing`. A call past its
  /// deadline is abandoned; a later close returns at once.
  close_status close(close_mode mode = close_mode::stop_now) noexcept;
  close_status close_until(steady_time deadline, close_mode mode = close_mode::stop_now) noexcept;
  template <class Rep, class Period>
  close_status close_for(std::chrono::duration<Rep, Period> wait, close_mode mode = close_mode::stop_now) noexcept {
    return close_within(clamp_duration(wait), mode);
  }

  /// `close` that holds no thread, for `co_await` in a task; gives a `close_status`. Works from everywhere: in a call that
  /// it would wait for, its own or one that is closing this one in turn, it gives `would_deadlock` at once, already stopped.
  /// Cancel: the waiting ends, the subscription stays stopped or draining.
  [[nodiscard]] auto async_close(close_mode mode = close_mode::stop_now) noexcept {
    return detail::operation_awaiter<detail::close_operation>(core_, mode, std::chrono::nanoseconds::max());
  }
  template <class Rep, class Period>
  [[nodiscard]] auto async_close_for(std::chrono::duration<Rep, Period> wait,
                                     close_mode mode = close_mode::stop_now) noexcept {
    return detail::operation_awaiter<detail::close_operation>(core_, mode, clamp_duration(wait));
  }
  /// The same with an Asio completion token, `void(boost::system::error_code, penstock::close_status)`; defined in
  /// `<penstock/bus/asio.hpp>`.
  template <class Token>
    requires(!std::is_same_v<std::remove_cvref_t<Token>, close_mode>)
  auto async_close(Token&& token);
  template <class Token>
  auto async_close(close_mode mode, Token&& token);
  template <class Rep, class Period, class Token>
    requires(!std::is_same_v<std::remove_cvref_t<Token>, close_mode>)
  auto async_close_for(std::chrono::duration<Rep, Period> wait, Token&& token);
  template <class Rep, class Period, class Token>
  auto async_close_for(std::chrono::duration<Rep, Period> wait, close_mode mode, Token&& token);

  /// Lifts a pause of the breaker. Does nothing otherwise.
  void resume() noexcept;
  subscription_state state() const noexcept;

  /// Lets the subscription live as long as its bus; this handle is empty afterwards.
  void release() noexcept;

  /// The counters. Without traffic they balance; under traffic they never show more fates than offers.
  penstock::ledger ledger() const;
  std::string name() const;
  std::size_t capacity() const noexcept;
  explicit operator bool() const noexcept { return core_ != nullptr; }

 private:
  friend class subscription_access;
  close_status close_within(std::chrono::nanoseconds wait, close_mode mode) noexcept;
  scheduler_ptr pool() const noexcept;
  detail::subscription_core* core_ = nullptr;
};

}  // namespace penstock
