// The event bus: typed topics, publishers and subscriptions.
// Floor 5, room bus.
#pragma once

#include <penstock/base/call_site.hpp>
#include <penstock/base/export.hpp>
#include <penstock/base/failure.hpp>
#include <penstock/bus/call.hpp>
#include <penstock/bus/event.hpp>
#include <penstock/bus/publisher.hpp>
#include <penstock/bus/subscribe_options.hpp>
#include <penstock/bus/subscription.hpp>

#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace penstock {

namespace detail {

class bus_core;

/// A handler with its type erased. The core owns it from the moment it is passed.
struct handler_object {
  void* target = nullptr;
  void (*invoke)(void* target, const void* event, const call& info) = nullptr;
  void (*destroy)(void* target) noexcept = nullptr;
};

template <event E, class F>
handler_object erase_handler(F&& handler) {
  using target = std::decay_t<F>;
  constexpr bool with_call = std::is_invocable_v<target&, const E&, const call&>;
  constexpr bool plain = std::is_invocable_v<target&, const E&>;
  static_assert(with_call || plain, "a handler is callable as (const E&) or (const E&, const penstock::call&)");
  static_assert(std::is_nothrow_destructible_v<target>, "a handler's destructor must not throw");
  handler_object made;
  if constexpr (with_call) {
    static_assert(std::is_void_v<std::invoke_result_t<target&, const E&, const call&>>, "a handler returns void");
    made.invoke = [](void* self, const void* event, const call& info) {
      (*static_cast<target*>(self))(*static_cast<const E*>(event), info);
    };
  } else if constexpr (plain) {
    static_assert(std::is_void_v<std::invoke_result_t<target&, const E&>>, "a handler returns void");
    made.invoke = [](void* self, const void* event, const call&) {
      (*static_cast<target*>(self))(*static_cast<const E*>(event));
    };
  }
  auto* owned = new target(std::forward<F>(handler));
  made.target = owned;
  made.destroy = [](void* self) noexcept { delete static_cast<target*>(self); };
  if constexpr (std::is_pointer_v<target> || (std::is_class_v<target> && requires { owned->operator bool(); })) {
    if (!static_cast<bool>(*owned)) {  // an empty function pointer or wrapper: subscribe refuses it
      delete owned;
      return {};
    }
  }
  return made;
}

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
    return penstock::publisher<E>(open_topic(detail::describe_event<E>()));
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

  /// Subscribes a handler, callable as `(const E&)` or `(const E&, const penstock::call&)`. Each event whose publish
  /// starts after this returned is offered to it. The name appears in every report about it.
  /// Throws std::system_error: `invalid_argument` (empty name, capacity or concurrency 0, empty handler, another
  /// capacity than 1 with `latest`), `event_type_mismatch`, `closed`.
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

  /// Waits until no event of any subscription is queued, running or pending. False: the deadline passed first, or it was asked on a worker,
  /// which may not wait.
  bool wait_idle_until(steady_time deadline) const;
  template <class Rep, class Period>
  bool wait_idle(std::chrono::duration<Rep, Period> wait) const {
    return wait_idle_until(deadline_in(clamp_duration(wait)));
  }

  /// All subscriptions that are open or not yet ended, in the order they were made. Stops nothing.
  std::vector<subscription_info> subscriptions() const;

 private:
  friend class event_bus_access;
  penstock::subscription add(const detail::event_type& type, std::string_view name, subscribe_options options,
                             detail::handler_object handler, call_site where) const;
  subscribe_result try_add(const detail::event_type& type, std::string_view name, subscribe_options options,
                           detail::handler_object handler, call_site where) const;
  detail::topic_handle open_topic(const detail::event_type& type) const;
  detail::topic_handle find_topic(const detail::event_type& type) const;
  steady_time deadline_in(std::chrono::nanoseconds wait) const noexcept;

  detail::bus_core* core_;
};

}  // namespace penstock
