// What a subscription does when its calls keep failing.
// Floor 5, room bus.
#pragma once

#include <penstock/base/clock.hpp>
#include <penstock/base/export.hpp>

#include <chrono>

namespace penstock {

/// What follows an event that has failed for good (after the last attempt, when there are retries). Every failure is told
/// to the runtime's `on_failure` whatever the policy.
class PENSTOCK_API failure_policy {
 public:
  enum class action : unsigned char { keep_going, pause, unsubscribe, escalate };

  /// The next event. The default.
  static failure_policy keep_going() noexcept { return failure_policy(action::keep_going, 1, {}); }
  /// A breaker: after so many failures in a row nothing is begun for a while; then one event is tried, and its success lifts
  /// the pause. Visible as `subscription_state::paused`. What waits stays queued; `subscription::resume` lifts it by hand.
  template <class Rep, class Period>
  static failure_policy pause(unsigned after, std::chrono::duration<Rep, Period> probe_every) noexcept {
    return failure_policy(action::pause, after, clamp_duration(probe_every));
  }
  /// The subscription stops, as by `stop()`.
  static failure_policy unsubscribe(unsigned after = 1) noexcept {
    return failure_policy(action::unsubscribe, after, {});
  }
  /// The runtime begins to shut down and tells `on_escalate`.
  static failure_policy escalate(unsigned after = 1) noexcept { return failure_policy(action::escalate, after, {}); }

  action what() const noexcept { return what_; }
  unsigned after() const noexcept { return after_; }
  std::chrono::nanoseconds probe_every() const noexcept { return probe_every_; }

 private:
  failure_policy(action what, unsigned after, std::chrono::nanoseconds probe_every) noexcept
      : what_(what), after_(after), probe_every_(probe_every) {}
  action what_;
  unsigned after_;
  std::chrono::nanoseconds probe_every_;
};

}  // namespace penstock
