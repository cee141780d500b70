// What a handler may ask about the call it is in.
// Floor 5, room bus.
#pragma once

#include <penstock/base/clock.hpp>
#include <penstock/base/export.hpp>
#include <penstock/bus/event.hpp>
#include <penstock/exec/cancelled.hpp>

#include <atomic>
#include <cstdint>
#include <memory>
#include <new>
#include <stop_token>
#include <string_view>

namespace penstock {

namespace detail {

/// One subscription's request to stop: asked once, and built only when somebody looks or asks. Threads: thread-safe.
class PENSTOCK_API stop_request {
 public:
  stop_request() noexcept = default;
  stop_request(const stop_request&) = delete;
  stop_request& operator=(const stop_request&) = delete;
  ~stop_request();
  /// Throws std::bad_alloc.
  std::stop_token token() const;
  /// Null until it was asked.
  const std::shared_ptr<const cause>* why() const noexcept;
  bool asked() const noexcept { return phase_.load() == asked_phase; }
  /// The first one counts.
  void ask(std::shared_ptr<const cause> why) noexcept;

 private:
  static constexpr unsigned asking_phase = 1;
  static constexpr unsigned asked_phase = 2;
  std::stop_source* source() const noexcept;
  mutable std::atomic<std::stop_source*> source_{nullptr};
  std::atomic<unsigned> phase_{0};
  std::shared_ptr<const cause> why_;  // written while asking, then constant
};

}  // namespace detail

/// The running call. Valid until the handler has returned, or its coroutine has ended; worker-bound.
class PENSTOCK_API call {
 public:
  call(const call&) = delete;
  call& operator=(const call&) = delete;

  /// The event's seat number in this subscription, from 1, without gaps (evicted events leave one).
  std::uint64_t sequence() const noexcept { return sequence_; }
  /// Which attempt this is, from 1.
  unsigned attempt() const noexcept { return attempt_; }
  /// The name given to subscribe.
  std::string_view subscription() const noexcept { return subscription_; }
  /// When the event was published, and how many were lost here since the one before it: evicted, dropped, refused as full.
  /// Only on a topic with `metadata`; else the clock's epoch, and 0.
  steady_time published() const noexcept { return published_; }
  std::uint64_t dropped_before() const noexcept { return dropped_before_; }
  /// Asked to stop by `close(close_mode::cancel)` or by the forced end of a shutdown.
  /// Throws std::bad_alloc, the first time in a subscription.
  std::stop_token stop_token() const { return stop_->token(); }
  /// Who asked, and why; null until then.
  const cause* stop_reason() const noexcept {
    const auto* why = stop_->why();
    return why != nullptr ? why->get() : nullptr;
  }

  /// Keeps the event of this call beyond it. `event` must be the handler's argument.
  /// Throws std::bad_alloc. Cost: a count, or for an event that travels in place one allocation.
  template <class E>
  event_ptr<E> share(const E& event) const {
    return detail::share_event(event);
  }

 private:
  friend class call_access;
  call(std::string_view subscription, const detail::stop_request& stop) noexcept
      : subscription_(subscription), stop_(&stop) {}
  std::uint64_t sequence_ = 0;
  std::uint64_t dropped_before_ = 0;
  steady_time published_{};
  unsigned attempt_ = 1;
  std::string_view subscription_;
  const detail::stop_request* stop_ = nullptr;
};

}  // namespace penstock
