// What a handler may ask about the call it is in.
// Floor 5, room bus.
#pragma once

#include <penstock/base/export.hpp>
#include <penstock/bus/event.hpp>

#include <cstdint>
#include <new>
#include <stop_token>
#include <string_view>

namespace penstock {

/// The running call. Valid until the handler has returned; worker-bound.
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
  /// Asked to stop by `close(close_mode::cancel)` or by the forced end of a shutdown.
  std::stop_token stop_token() const noexcept { return stop_->get_token(); }

  /// Keeps the event of this call beyond it. `event` must be the handler's argument.
  /// Throws std::bad_alloc. Cost: a count, or for an event that travels in place one allocation.
  template <class E>
  event_ptr<E> share(const E& event) const {
    if constexpr (detail::in_place_event<E>) {
      return make_event<E>(event);
    } else {
      auto* payload = const_cast<void*>(static_cast<const void*>(&event));
      detail::retain_block(payload);
      return event_ptr<E>::adopt(payload);
    }
  }

 private:
  friend class call_access;
  call(std::string_view subscription, const std::stop_source& stop) noexcept : subscription_(subscription), stop_(&stop) {}
  std::uint64_t sequence_ = 0;
  unsigned attempt_ = 1;
  std::string_view subscription_;
  const std::stop_source* stop_ = nullptr;
};

}  // namespace penstock
