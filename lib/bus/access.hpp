// How the bus reaches into its public value types.
// Floor 5, room bus.
#pragma once

#include <penstock/bus/call.hpp>
#include <penstock/bus/subscribe_options.hpp>
#include <penstock/bus/subscription.hpp>

#include <utility>

namespace penstock {

class call_access {
 public:
  static call make(std::string_view subscription, const std::stop_source& stop) noexcept {
    return call(subscription, stop);
  }
  static void set_sequence(call& info, std::uint64_t sequence) noexcept { info.sequence_ = sequence; }
};

class subscribe_options_access {
 public:
  static std::size_t capacity(const subscribe_options& o) noexcept { return o.capacity_; }
  static bool capacity_set(const subscribe_options& o) noexcept { return o.capacity_set_; }
  static overflow policy(const subscribe_options& o) noexcept { return o.overflow_; }
  static unsigned concurrency(const subscribe_options& o) noexcept { return o.concurrency_; }
  static std::size_t max_parked(const subscribe_options& o) noexcept { return o.max_parked_; }
  static const scheduler_ptr& pool(const subscribe_options& o) noexcept { return o.pool_; }
  static detail::drop_hook& hook(subscribe_options& o) noexcept { return o.drop_hook_; }
};

class subscription_access {
 public:
  static subscription adopt(detail::subscription_core* core) noexcept {
    subscription made;
    made.core_ = core;
    return made;
  }
};

}  // namespace penstock
