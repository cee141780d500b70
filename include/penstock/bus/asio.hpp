// The bus with Asio's completion tokens, awaitable handlers, and subscriptions on a service's own executor.
// Floor 5, room bus.
#pragma once

#include <penstock/bus/event_bus.hpp>
#include <penstock/exec/asio.hpp>

#include <boost/asio/async_result.hpp>
#include <boost/asio/awaitable.hpp>

#include <tuple>
#include <type_traits>
#include <utility>

namespace penstock {

namespace detail {

struct deliver_publish {
  template <class Operation>
  static std::tuple<boost::system::error_code, publish_result> results(Operation& decided) {
    publish_result result = decided.result();
    const errc error = result.error();
    return {to_asio(error), std::move(result)};
  }
};
struct deliver_close {
  template <class Operation>
  static std::tuple<boost::system::error_code, close_status> results(Operation& decided) {
    if (decided.gave_up()) return {to_asio(errc::cancelled), close_status::closing};
    const close_status status = decided.result();
    return {to_asio(status == close_status::would_deadlock ? errc::would_deadlock : errc::none), status};
  }
};
struct deliver_idle {
  template <class Operation>
  static std::tuple<boost::system::error_code, bool> results(Operation& decided) {
    return {to_asio(decided.gave_up() ? errc::cancelled : errc::none), decided.result()};
  }
};
template <event E>
struct deliver_event {
  template <class Operation>
  static std::tuple<boost::system::error_code, delivery<E>> results(Operation& decided) {
    const bool cancelled = decided.gave_up();
    delivery<E> got = decided.result();
    const errc error = cancelled ? errc::cancelled : got ? errc::none : errc::closed;
    return {to_asio(error), std::move(got)};
  }
};

template <boost::asio::completion_token_for<void(boost::system::error_code, publish_result)> T>
struct names_a_token<T> : std::true_type {};

/// Operations that can be made from one argument, with public destructors for Asio's allocators.
template <event E>
struct token_publish : publish_operation_of<E> {
  using publish_operation_of<E>::publish_operation_of;
};
struct token_close : close_operation {
  using close_operation::close_operation;
};
struct token_idle : idle_operation {
  using idle_operation::idle_operation;
};
template <event E>
struct token_receive : receive_operation_of<E> {
  using receive_operation_of<E>::receive_operation_of;
};

/// An awaitable handler runs on its lane: a task that awaits it there.
template <class Executor>
struct handler_result_adaptor<boost::asio::awaitable<void, Executor>> {
  static task<void> to_task(boost::asio::awaitable<void, Executor> work) { co_await std::move(work); }
};

}  // namespace detail

template <event E>
template <class V, class Token>
  requires std::same_as<std::remove_cvref_t<V>, E> || std::same_as<std::remove_cvref_t<V>, event_ptr<E>>
auto publisher<E>::async_publish(V&& value, Token&& token) const {
  static_assert(!detail::destroyed_twice<V>,
                "g++ 12 destroys an aggregate temporary inside co_await twice, and this function cannot tell one from a named "
                "event that is moved: use async_emplace<E>(token, members...), or publish it as an lvalue or as an event_ptr "
                "of make_event");
  using signature = void(boost::system::error_code, publish_result);
  using initiation = detail::token_initiation<detail::token_publish<E>, detail::deliver_publish>;
  // What travels through Asio's machinery is small and shared, never the event itself.
  if constexpr (detail::in_place_event<E> || std::same_as<std::remove_cvref_t<V>, event_ptr<E>>) {
    return boost::asio::async_initiate<Token, signature>(initiation(), token, topic_.pool(), topic_, std::forward<V>(value));
  } else {
    event_ptr<E> shared = make_event<E>(std::forward<V>(value));
    return boost::asio::async_initiate<Token, signature>(initiation(), token, topic_.pool(), topic_, std::move(shared));
  }
}

template <class V, class Token>
  requires event<std::remove_cvref_t<V>>
auto event_bus::async_publish(V&& value, Token&& token) const {
  using E = std::remove_cvref_t<V>;
  return penstock::publisher<E>(find_topic(detail::describe_event<E>()))
      .async_publish(std::forward<V>(value), std::forward<Token>(token));
}

template <event E>
template <class Token, class... Args>
  requires(detail::begins_with_token<Token>)
auto publisher<E>::async_emplace(Token&& token, Args&&... args) const {
  if constexpr (detail::in_place_event<E>) {
    if constexpr (std::is_constructible_v<E, Args...>)
      return async_publish(E(std::forward<Args>(args)...), std::forward<Token>(token));
    else
      return async_publish(E{std::forward<Args>(args)...}, std::forward<Token>(token));
  } else {
    return async_publish(make_event<E>(std::forward<Args>(args)...), std::forward<Token>(token));
  }
}

template <event E, class Token, class... Args>
  requires(detail::begins_with_token<Token>)
auto event_bus::async_emplace(Token&& token, Args&&... args) const {
  return penstock::publisher<E>(find_topic(detail::describe_event<E>()))
      .async_emplace(std::forward<Token>(token), std::forward<Args>(args)...);
}

template <event E>
template <class Token>
auto stream<E>::async_receive(Token&& token) const {
  using initiation = detail::token_initiation<detail::token_receive<E>, detail::deliver_event<E>>;
  return boost::asio::async_initiate<Token, void(boost::system::error_code, delivery<E>)>(
      initiation(), token, handle_.pool(), handle_.core());
}

template <class Token>
  requires(!std::is_same_v<std::remove_cvref_t<Token>, close_mode>)
auto subscription::async_close(Token&& token) {
  return async_close(close_mode::stop_now, std::forward<Token>(token));
}

template <class Token>
auto subscription::async_close(close_mode mode, Token&& token) {
  return async_close_for(std::chrono::nanoseconds::max(), mode, std::forward<Token>(token));
}

template <class Rep, class Period, class Token>
  requires(!std::is_same_v<std::remove_cvref_t<Token>, close_mode>)
auto subscription::async_close_for(std::chrono::duration<Rep, Period> wait, Token&& token) {
  return async_close_for(wait, close_mode::stop_now, std::forward<Token>(token));
}

template <class Rep, class Period, class Token>
auto subscription::async_close_for(std::chrono::duration<Rep, Period> wait, close_mode mode, Token&& token) {
  using initiation = detail::token_initiation<detail::token_close, detail::deliver_close>;
  return boost::asio::async_initiate<Token, void(boost::system::error_code, close_status)>(
      initiation(), token, pool(), core_, mode, clamp_duration(wait));
}

template <class Token>
auto event_bus::async_wait_idle(Token&& token) const {
  return async_wait_idle_for(std::chrono::nanoseconds::max(), std::forward<Token>(token));
}

template <class Rep, class Period, class Token>
auto event_bus::async_wait_idle_for(std::chrono::duration<Rep, Period> wait, Token&& token) const {
  using initiation = detail::token_initiation<detail::token_idle, detail::deliver_idle>;
  return boost::asio::async_initiate<Token, void(boost::system::error_code, bool)>(
      initiation(), token, default_pool(), core_, clamp_duration(wait));
}

template <class Executor>
  requires(!std::is_convertible_v<const Executor&, scheduler_ptr>)
subscribe_options& subscribe_options::on(const Executor& executor) & {
  return on(on_executor(boost::asio::any_io_executor(executor)));
}

}  // namespace penstock
