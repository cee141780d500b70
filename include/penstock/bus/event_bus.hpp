// The event bus: typed topics, publishers, subscriptions and streams.
// Floor 5, room bus.
#pragma once

#include <penstock/base/call_site.hpp>
#include <penstock/base/export.hpp>
#include <penstock/base/failure.hpp>
#include <penstock/bus/call.hpp>
#include <penstock/bus/event.hpp>
#include <penstock/bus/handler.hpp>
#include <penstock/bus/publisher.hpp>
#include <penstock/bus/snapshot.hpp>
#include <penstock/bus/stream.hpp>
#include <penstock/bus/subscribe_options.hpp>
#include <penstock/bus/subscription.hpp>
#include <penstock/bus/topic.hpp>

#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace penstock {

namespace detail {

class bus_core;

/// Waits until a bus is idle. Threads: as every operation.
class PENSTOCK_API idle_operation : public operation {
 public:
  idle_operation(bus_core* core, std::chrono::nanoseconds limit) noexcept;
  bool start() noexcept;
  void cancel(cancel_force force) noexcept;
  bool gave_up() const noexcept { return cancelled_; }
  bool result() const noexcept { return idle_; }

 protected:
  ~idle_operation();

 private:
  friend class bus_core;
  struct timer_slot {
    timer_node node;
    idle_operation* owner = nullptr;
  };
  static void deadline_passed(timer_node& fired) noexcept;
  void is_idle() noexcept;
  void drop_timer() noexcept;
  void drop() noexcept;

  bus_core* const core_;
  const std::chrono::nanoseconds limit_;
  bool idle_ = false;
  bool cancelled_ = false;
  operation_holds holds_;
  timer_slot timer_;
  idle_operation* next_ = nullptr;
};

}  // namespace detail

/// What `try_subscribe` gives: a subscription, or why there is none.
struct subscribe_result {
  penstock::subscription subscription;
  errc error = errc::none;
  std::string text;
  explicit operator bool() const noexcept { return error == errc::none; }
};

/// One subscription as seen from outside.
struct subscription_info {
  std::string name;
  std::string event;
  penstock::ledger ledger;
  std::size_t capacity = 0;
};

/// A bus of typed events. Made by a `runtime`; this is a cheap handle that may outlive it. Threads: thread-safe.
class PENSTOCK_API event_bus {
 public:
  explicit event_bus(detail::bus_core* adopted) noexcept : core_(adopted) {}
  event_bus(const event_bus& other) noexcept;
  event_bus& operator=(const event_bus& other) noexcept;
  ~event_bus();

  /// A publisher for the topic of E. Throws std::system_error: `event_type_mismatch` when the event's name is taken by
  /// another layout, `closed` after shutdown began.
  template <event E>
  penstock::publisher<E> publisher() const {
    return penstock::publisher<E>(open_topic(detail::describe_event<E>(), nullptr));
  }

  /// The topic of E that goes by a name besides its type: same event type, separate topics. Throws std::system_error:
  /// `invalid_argument` for a name out of its range, or for metadata when the topic keeps another kind;
  /// `event_type_mismatch` when the name belongs to another event type; `closed`.
  /// A topic without handles and subscriptions is released.
  template <event E>
  penstock::topic<E> topic(std::string_view name) const {
    return topic<E>(topic_options().name(name));
  }
  template <event E>
  penstock::topic<E> topic(const topic_options& options) const {
    return penstock::topic<E>(open_topic(detail::describe_event<E>(), &options));
  }

  /// Publishes to the topic of E; `publisher<E>` skips the look-up this does. Same promises.
  template <class V>
    requires event<std::remove_cvref_t<V>>
  publish_result publish(V&& value) const {
    using E = std::remove_cvref_t<V>;
    return penstock::publisher<E>(find_topic(detail::describe_event<E>())).publish(std::forward<V>(value));
  }
  template <class V>
    requires event<std::remove_cvref_t<V>>
  publish_result try_publish(V&& value) const {
    using E = std::remove_cvref_t<V>;
    return penstock::publisher<E>(find_topic(detail::describe_event<E>())).try_publish(std::forward<V>(value));
  }
  /// For `co_await` in a task; as `publisher::async_publish`.
  template <class V>
    requires event<std::remove_cvref_t<V>>
  [[nodiscard]] auto async_publish(V&& value) const {
    using E = std::remove_cvref_t<V>;
    return penstock::publisher<E>(find_topic(detail::describe_event<E>())).async_publish(std::forward<V>(value));
  }
  template <event E, class... Args>
    requires(!detail::begins_with_token<Args...>)
  [[nodiscard]] auto async_emplace(Args&&... args) const {
    return penstock::publisher<E>(find_topic(detail::describe_event<E>())).async_emplace(std::forward<Args>(args)...);
  }
  /// With an Asio completion token; defined in `<penstock/bus/asio.hpp>`.
  template <class V, class Token>
    requires event<std::remove_cvref_t<V>>
  auto async_publish(V&& value, Token&& token) const;
  template <event E, class Token, class... Args>
    requires(detail::begins_with_token<Token>)
  auto async_emplace(Token&& token, Args&&... args) const;

  /// Subscribes a handler, callable as `(const E&)` or `(const E&, const penstock::call&)`, that returns `void`, or a
  /// `penstock::task<void>`: a coroutine, which occupies its lane until it has ended, and may wait in it without holding a
  /// thread; the event lives as long. Each event whose publish starts after this returned is offered to it.
  /// The name appears in every report about it.
  /// Throws std::system_error: `invalid_argument` (empty name, capacity or concurrency 0, empty handler, another
  /// capacity than 1 with `latest`, a policy out of its range), `event_type_mismatch`, `closed`.
  template <event E, class F>
  [[nodiscard]] penstock::subscription subscribe(std::string_view name, subscribe_options options, F&& handler,
                                                 call_site where = call_site::here()) const {
    return add(detail::describe_event<E>(), name, std::move(options), detail::erase_handler<E>(std::forward<F>(handler)),
               where);
  }
  template <event E, class F>
  [[nodiscard]] penstock::subscription subscribe(std::string_view name, F&& handler,
                                                 call_site where = call_site::here()) const {
    return add(detail::describe_event<E>(), name, subscribe_options(),
               detail::erase_handler<E>(std::forward<F>(handler)), where);
  }

  /// `subscribe` that reports instead of throwing (what E's handler throws when it is moved still comes out).
  template <event E, class F>
  subscribe_result try_subscribe(std::string_view name, subscribe_options options, F&& handler,
                                 call_site where = call_site::here()) const {
    return try_add(detail::describe_event<E>(), name, std::move(options),
                   detail::erase_handler<E>(std::forward<F>(handler)), where);
  }

  /// A subscription that is read instead of being called. Throws as `subscribe`.
  template <event E>
  [[nodiscard]] penstock::stream<E> stream(std::string_view name, stream_options options = stream_options(),
                                           call_site where = call_site::here()) const {
    return add_stream<E>(detail::describe_event<E>(), name, std::move(options), where);
  }

  /// Waits until no event of any subscription is queued, running or pending. False: the deadline passed first, or it was asked on a worker,
  /// which may not wait.
  bool wait_idle_until(steady_time deadline) const;
  template <class Rep, class Period>
  bool wait_idle(std::chrono::duration<Rep, Period> wait) const {
    return wait_idle_until(deadline_in(clamp_duration(wait)));
  }
  /// The same for `co_await` in a task, which holds no thread; gives a bool. In a handler it is false at once: its own call
  /// is running. Cancel: at once.
  [[nodiscard]] auto async_wait_idle() const noexcept {
    return detail::operation_awaiter<detail::idle_operation>(core_, std::chrono::nanoseconds::max());
  }
  template <class Rep, class Period>
  [[nodiscard]] auto async_wait_idle_for(std::chrono::duration<Rep, Period> wait) const noexcept {
    return detail::operation_awaiter<detail::idle_operation>(core_, clamp_duration(wait));
  }
  /// With an Asio completion token, `void(boost::system::error_code, bool)`; defined in `<penstock/bus/asio.hpp>`.
  template <class Token>
  auto async_wait_idle(Token&& token) const;
  template <class Rep, class Period, class Token>
  auto async_wait_idle_for(std::chrono::duration<Rep, Period> wait, Token&& token) const;

  /// All subscriptions that are open or not yet ended, in the order they were made. Stops nothing.
  std::vector<subscription_info> subscriptions() const;
  /// Topics, subscriptions, running calls and who waits for whom. Stops nothing; each part is true at an instant of its own.
  bus_snapshot snapshot() const;

  /// For the library's own use.
  detail::bus_core* core() const noexcept { return core_; }

 private:
  template <event E>
  penstock::stream<E> add_stream(const detail::event_type& type, std::string_view name, stream_options&& options,
                                 call_site where) const {
    return penstock::stream<E>(
        detail::stream_from(open_topic(type, nullptr), name, std::move(options), detail::burial_of<E>(), where));
  }
  penstock::subscription add(const detail::event_type& type, std::string_view name, subscribe_options options,
                             detail::handler_object handler, call_site where) const;
  subscribe_result try_add(const detail::event_type& type, std::string_view name, subscribe_options options,
                           detail::handler_object handler, call_site where) const;
  detail::topic_handle open_topic(const detail::event_type& type, const topic_options* options) const;
  detail::topic_handle find_topic(const detail::event_type& type) const;
  steady_time deadline_in(std::chrono::nanoseconds wait) const noexcept;
  scheduler_ptr default_pool() const noexcept;

  detail::bus_core* core_;
};

}  // namespace penstock
