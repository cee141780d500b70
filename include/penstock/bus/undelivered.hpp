// What is told of an event that had a seat and will not be handled, because its subscription or the runtime has ended.
// Floor 5, room bus.
#pragma once

#include <penstock/base/clock.hpp>
#include <penstock/base/export.hpp>
#include <penstock/bus/event.hpp>

#include <cstdint>
#include <string_view>

namespace penstock {

/// Why an event is not delivered.
enum class undelivered_reason {
  closed,    ///< its subscription was stopped or closed, by its owner or by its failure policy
  shutdown,  ///< the runtime ends, and the event was not begun in the time for the drain
};
PENSTOCK_API const char* to_string(undelivered_reason reason) noexcept;

/// What `on_undelivered` may ask about its event. Valid until the hook has returned.
class PENSTOCK_API undelivered {
 public:
  undelivered(const undelivered&) = delete;
  undelivered& operator=(const undelivered&) = delete;

  std::string_view subscription() const noexcept { return subscription_; }
  undelivered_reason reason() const noexcept { return reason_; }
  /// The event's seat number in this subscription, from 1.
  std::uint64_t sequence() const noexcept { return sequence_; }
  /// Which delivery it would have been: 1, and more for an event that a reader put back.
  unsigned attempt() const noexcept { return attempt_; }
  /// When it was published, on a topic with `metadata`; else the clock's epoch.
  steady_time published() const noexcept { return published_; }

  /// Keeps the event beyond the hook. `event` must be the hook's argument.
  /// Throws std::bad_alloc. Cost: a count, or for an event that travels in place one allocation.
  template <class E>
  event_ptr<E> share(const E& event) const {
    return detail::share_event(event);
  }

 private:
  friend class undelivered_access;
  undelivered(std::string_view subscription, undelivered_reason reason, std::uint64_t sequence, unsigned attempt,
              steady_time published) noexcept
      : subscription_(subscription), reason_(reason), sequence_(sequence), attempt_(attempt), published_(published) {}
  std::string_view subscription_;
  undelivered_reason reason_;
  std::uint64_t sequence_;
  unsigned attempt_;
  steady_time published_;
};

}  // namespace penstock
