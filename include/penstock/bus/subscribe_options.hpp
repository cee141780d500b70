// How a subscription is to be.
// Floor 5, room bus.
#pragma once

#include <penstock/base/export.hpp>
#include <penstock/bus/event.hpp>
#include <penstock/bus/event_function.hpp>
#include <penstock/bus/failure_policy.hpp>
#include <penstock/bus/undelivered.hpp>
#include <penstock/exec/retry_policy.hpp>
#include <penstock/exec/scheduler.hpp>

#include <cstddef>
#include <memory>
#include <type_traits>
#include <utility>

namespace penstock {

/// What happens to an event when the channel has no seat.
enum class overflow {
  block,        ///< the publisher waits (a handler's output is parked)
  fail,         ///< the offer is rejected: `full`
  drop_newest,  ///< the new event is dropped and counted
  drop_oldest,  ///< the oldest event that has not begun makes room
  latest,       ///< `drop_oldest` with capacity 1
};

/// Why `on_drop` is told of an event.
enum class drop_reason {
  newest,     ///< refused by `drop_newest`
  oldest,     ///< evicted by `drop_oldest` or `latest`
  closed,     ///< a parked output whose target closed
  timed_out,  ///< a parked output whose deadline passed
  cycle,      ///< a handler's output that would have waited for its own handler
};
PENSTOCK_API const char* to_string(drop_reason reason) noexcept;

namespace detail {
using drop_hook = event_function<void(drop_reason)>;
using undelivered_hook = event_function<void(const undelivered&)>;
using event_filter = event_function<bool()>;
}  // namespace detail

/// Options of one subscription. Defaults: capacity 1024, `block`, concurrency 1, the runtime's pool "default".
/// The setters check nothing; `subscribe` does, and names what is out of range.
class PENSTOCK_API subscribe_options {
 public:
  subscribe_options();
  subscribe_options(subscribe_options&&) noexcept;
  subscribe_options& operator=(subscribe_options&&) noexcept;
  ~subscribe_options();

  /// How many events may wait, exactly; at least 1.
  subscribe_options& capacity(std::size_t events) & { return capacity_ = events, capacity_set_ = true, *this; }
  subscribe_options&& capacity(std::size_t events) && { return std::move(capacity(events)); }

  subscribe_options& overflow(penstock::overflow policy) & { return overflow_ = policy, *this; }
  subscribe_options&& overflow(penstock::overflow policy) && { return std::move(overflow(policy)); }

  /// How many calls may run at once; at least 1. With more than one no order is promised.
  subscribe_options& concurrency(unsigned calls) & { return concurrency_ = calls, *this; }
  subscribe_options&& concurrency(unsigned calls) && { return std::move(concurrency(calls)); }

  /// The pool whose workers run the handler.
  subscribe_options& on(scheduler_ptr pool) & { return pool_ = std::move(pool), *this; }
  subscribe_options&& on(scheduler_ptr pool) && { return std::move(on(std::move(pool))); }

  /// How many outputs a lane may have parked before a further one is refused with `would_block`. Default 64.
  subscribe_options& max_parked(std::size_t outputs) & { return max_parked_ = outputs, *this; }
  subscribe_options&& max_parked(std::size_t outputs) && { return std::move(max_parked(outputs)); }

  /// The executor of a service whose thread or strand runs the handler; any Asio executor. Defined in
  /// `<penstock/bus/asio.hpp>`. A drain that the executor destroys unrun stops the subscription.
  /// A blocking `close` from that executor's only thread waits for itself.
  template <class Executor>
    requires(!std::is_convertible_v<const Executor&, scheduler_ptr>)
  subscribe_options& on(const Executor& executor) &;
  template <class Executor>
    requires(!std::is_convertible_v<const Executor&, scheduler_ptr>)
  subscribe_options&& on(const Executor& executor) && {
    return std::move(on(executor));
  }

  /// Only events for which it returns true are handled; the others have held a seat and end as `filtered`. Runs on the
  /// handler's lane just before each call; what it throws is a failure of the call:
  /// `filter<order>([](const order& o) { return o.cents > 0; })`.
  template <event E, class F>
  subscribe_options& filter(F&& wanted) & {
    static_assert(std::is_invocable_r_v<bool, std::decay_t<F>&, const E&>, "a filter is callable as bool(const E&)");
    filter_ = detail::event_filter::of<E>(std::forward<F>(wanted));
    return *this;
  }
  template <event E, class F>
  subscribe_options&& filter(F&& wanted) && {
    return std::move(filter<E>(std::forward<F>(wanted)));
  }

  /// A failed call is tried again after a delay that holds no worker: the lane waits, and takes no other event meanwhile.
  subscribe_options& retry(retry_policy policy) & { return retry_ = policy, retries_ = true, *this; }
  subscribe_options&& retry(retry_policy policy) && { return std::move(retry(policy)); }
  /// What follows an event that has failed for good. Default: `keep_going`.
  subscribe_options& on_failure(failure_policy policy) & { return failure_ = policy, *this; }
  subscribe_options&& on_failure(failure_policy policy) && { return std::move(on_failure(policy)); }

  /// Told of each drop, once, with the event: `on_drop<order>([](const order&, penstock::drop_reason) noexcept { … })`.
  /// Runs on the stack of whoever drops, with no lock held; must be noexcept and must not wait. A drop that it causes is
  /// counted but not told.
  template <event E, class F>
  subscribe_options& on_drop(F&& hook) & {
    static_assert(std::is_nothrow_invocable_v<std::decay_t<F>&, const E&, drop_reason>,
                  "on_drop takes a noexcept callable as (const E&, penstock::drop_reason)");
    on_drop_ = detail::drop_hook::of<E>(std::forward<F>(hook));
    return *this;
  }
  template <event E, class F>
  subscribe_options&& on_drop(F&& hook) && {
    return std::move(on_drop<E>(std::forward<F>(hook)));
  }

  /// Given each event that has had a seat and will not be handled, once, when the subscription stops or the runtime
  /// ends before it: `on_undelivered<order>([&](const order& o, const penstock::undelivered& why) { spool.add(o); })`.
  /// What the ledger counts as `discarded` is exactly what was given. Not given: a call that has begun, also one that a
  /// shutdown abandons (its fate is open, the report names it), what failed (a dead letter), and what never had a seat
  /// or lost it (`on_drop`). Runs on the stack of whoever stops the subscription or ends the runtime, now and then on a
  /// reader's that meets the stop; in order of the seats on each of them; with no lock held. It must not wait for the
  /// library. Its time is the shutdown's: the end comes as much later as it takes beyond the budget,
  /// for no event is left out. What it throws is told to the log, and the next event is given. Cost: none until
  /// something is discarded.
  template <event E, class F>
  subscribe_options& on_undelivered(F&& hook) & {
    static_assert(std::is_invocable_v<std::decay_t<F>&, const E&, const undelivered&>,
                  "on_undelivered takes a callable as (const E&, const penstock::undelivered&)");
    on_undelivered_ = detail::undelivered_hook::of<E>(std::forward<F>(hook));
    return *this;
  }
  template <event E, class F>
  subscribe_options&& on_undelivered(F&& hook) && {
    return std::move(on_undelivered<E>(std::forward<F>(hook)));
  }

 private:
  friend class subscribe_options_access;

  std::size_t capacity_ = 1024;
  bool capacity_set_ = false;
  penstock::overflow overflow_ = penstock::overflow::block;
  unsigned concurrency_ = 1;
  std::size_t max_parked_ = 64;
  scheduler_ptr pool_;
  detail::drop_hook on_drop_;
  detail::undelivered_hook on_undelivered_;
  detail::event_filter filter_;
  retry_policy retry_;
  bool retries_ = false;
  failure_policy failure_ = failure_policy::keep_going();
};

}  // namespace penstock
