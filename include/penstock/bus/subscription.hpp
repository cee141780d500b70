// The handle to a subscription: leaving, and looking at its ledger.
// Floor 5, room bus.
#pragma once

#include <penstock/base/clock.hpp>
#include <penstock/base/export.hpp>
#include <penstock/bus/ledger.hpp>

#include <chrono>
#include <string>
#include <string_view>

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
};

namespace detail {
class subscription_core;
}

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
  detail::subscription_core* core_ = nullptr;
};

}  // namespace penstock
