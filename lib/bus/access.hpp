// How the bus reaches into its public value types.
// Floor 5, room bus.
#pragma once

#include <penstock/bus/call.hpp>
#include <penstock/bus/snapshot.hpp>
#include <penstock/bus/stream.hpp>
#include <penstock/bus/subscribe_options.hpp>
#include <penstock/bus/subscription.hpp>
#include <penstock/bus/topic.hpp>
#include <penstock/bus/undelivered.hpp>

#include <cstdint>
#include <string_view>
#include <utility>

namespace penstock {

class call_access {
 public:
  static call make(std::string_view subscription, const detail::stop_request& stop) noexcept {
    return call(subscription, stop);
  }
  static void begin(call& info, std::uint64_t sequence, std::uint64_t dropped_before, std::int64_t published) noexcept {
    begin(info, sequence);
    info.dropped_before_ = dropped_before;
    info.published_ = steady_time(std::chrono::nanoseconds(published));
  }
  /// The same, where neither losses nor times are kept.
  static void begin(call& info, std::uint64_t sequence) noexcept {
    info.sequence_ = sequence;
    info.attempt_ = 1;
  }
  static void next_attempt(call& info) noexcept { ++info.attempt_; }
};

class undelivered_access {
 public:
  static undelivered make(std::string_view subscription, undelivered_reason reason, std::uint64_t sequence,
                          unsigned attempt, steady_time published) noexcept {
    return undelivered(subscription, reason, sequence, attempt, published);
  }
};

class subscribe_options_access {
 public:
  static std::size_t capacity(const subscribe_options& o) noexcept { return o.capacity_; }
  static bool capacity_set(const subscribe_options& o) noexcept { return o.capacity_set_; }
  static overflow policy(const subscribe_options& o) noexcept { return o.overflow_; }
  static unsigned concurrency(const subscribe_options& o) noexcept { return o.concurrency_; }
  static std::size_t max_parked(const subscribe_options& o) noexcept { return o.max_parked_; }
  static const scheduler_ptr& pool(const subscribe_options& o) noexcept { return o.pool_; }
  static detail::drop_hook& on_drop(subscribe_options& o) noexcept { return o.on_drop_; }
  static detail::undelivered_hook& on_undelivered(subscribe_options& o) noexcept { return o.on_undelivered_; }
  static detail::event_filter& filter(subscribe_options& o) noexcept { return o.filter_; }
  static bool retries(const subscribe_options& o) noexcept { return o.retries_; }
  static const retry_policy& retry(const subscribe_options& o) noexcept { return o.retry_; }
  static const failure_policy& failure(const subscribe_options& o) noexcept { return o.failure_; }
};

class stream_options_access {
 public:
  static subscribe_options& base(stream_options& o) noexcept { return o.base_; }
  static std::size_t max_in_flight(const stream_options& o) noexcept { return o.max_in_flight_; }
  static unsigned max_attempts(const stream_options& o) noexcept { return o.max_attempts_; }
};

class topic_options_access {
 public:
  static const std::string& name(const topic_options& o) noexcept { return o.name_; }
  static bool name_set(const topic_options& o) noexcept { return o.name_set_; }
  static metadata kept(const topic_options& o) noexcept { return o.metadata_; }
  static bool metadata_set(const topic_options& o) noexcept { return o.metadata_set_; }
};

class subscription_access {
 public:
  static subscription adopt(detail::subscription_core* core) noexcept {
    subscription made;
    made.core_ = core;
    return made;
  }
};

namespace detail {

class close_access {
 public:
  static subscription_core* core(const close_operation& o) noexcept { return o.core_; }
  static close_operation*& next(close_operation& o) noexcept { return o.next_; }
  static close_operation*& next_of_lane(close_operation& o) noexcept { return o.next_of_lane_; }
  static void has_ended(close_operation& o) noexcept { o.has_ended(); }
};

}  // namespace detail
}  // namespace penstock
