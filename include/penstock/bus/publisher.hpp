// Publishing: the typed veneer over one topic.
// Floor 5, room bus.
#pragma once

#include <penstock/base/clock.hpp>
#include <penstock/base/errc.hpp>
#include <penstock/base/export.hpp>
#include <penstock/bus/event.hpp>
#include <penstock/bus/publish_operation.hpp>
#include <penstock/bus/publish_result.hpp>
#include <penstock/bus/topic_handle.hpp>

#include <chrono>
#include <concepts>
#include <memory>
#include <new>
#include <span>
#include <stop_token>
#include <string>
#include <type_traits>
#include <utility>

namespace penstock {

/// Publishes events of one type to one topic. Copyable, thread-safe, may outlive bus and runtime (then `closed`).
/// An empty one answers `closed`.
///
/// What waits: `publish`, `publish_for`, `publish_until`, `publish_many` and `emplace` wait while a `block` subscription
/// is full, at all full ones at once; `try_…` never does. Inside a handler nothing waits: the output is parked, and the
/// lane takes no further event until it has a seat. On a worker without a lane (posted work) a publish that would wait is
/// refused with `would_block`. Never in a signal handler, which may have interrupted the very code that it would call, and no
/// check could tell: a `signal_watcher` publishes on a thread.
/// Order: what one publish returned from, before another started, is handled first by every subscription with concurrency 1.
/// Throws: what E's copy or move throws; nothing has been offered then. No memory is `errc::not_enough_memory`.
/// Cost: no allocation for a trivially copyable event of up to 64 bytes that need not wait; otherwise one, whatever the
/// number of subscriptions.
template <event E>
class publisher {
 public:
  publisher() noexcept = default;
  explicit publisher(detail::topic_handle topic) noexcept : topic_(std::move(topic)) {}

  publish_result publish(const E& value) const { return send(value, detail::publish_request{}); }
  /// An event that nobody took leaves the argument unmoved.
  publish_result publish(E&& value) const { return send(std::move(value), detail::publish_request{}); }
  /// Hands over a shared event without a copy.
  template <std::same_as<event_ptr<E>> Pointer>
  publish_result publish(Pointer value) const {
    return send_shared(std::move(value), detail::publish_request{});
  }

  /// Gives up with `cancelled` when the token is asked to stop.
  template <class V = E>
    requires std::same_as<std::remove_cvref_t<V>, E>
  publish_result publish(V&& value, const std::stop_token& stop) const {
    detail::publish_request request;
    request.stop = &stop;
    return send(std::forward<V>(value), request);
  }

  /// Gives up with `timed_out` after `wait`.
  template <class Rep, class Period, class V = E>
  publish_result publish_for(std::chrono::duration<Rep, Period> wait, V&& value) const {
    detail::publish_request request;
    request.deadline = topic_.deadline_after(clamp_duration(wait));
    return send(as_event(std::forward<V>(value)), request);
  }
  template <class V = E>
  publish_result publish_until(steady_time deadline, V&& value) const {
    detail::publish_request request;
    request.deadline = deadline;
    return send(as_event(std::forward<V>(value)), request);
  }

  /// Never waits: a full `block` subscription refuses like `fail`, also while others wait at it.
  publish_result try_publish(const E& value) const { return send(value, never()); }
  publish_result try_publish(E&& value) const { return send(std::move(value), never()); }
  template <std::same_as<event_ptr<E>> Pointer>
  publish_result try_publish(Pointer value) const {
    return send_shared(std::move(value), never());
  }

  /// Builds the event from `args` and publishes it.
  template <class... Args>
  publish_result emplace(Args&&... args) const {
    return build(detail::publish_request{}, std::forward<Args>(args)...);
  }
  template <class... Args>
  publish_result try_emplace(Args&&... args) const {
    return build(never(), std::forward<Args>(args)...);
  }

  /// Publishes a span in order: offered whole to each subscription before anybody waits, one wake-up for an idle lane.
  publish_result publish_many(std::span<const E> values) const { return send_many(values, detail::publish_request{}); }
  publish_result publish_many(std::span<const E> values, const std::stop_token& stop) const {
    detail::publish_request request;
    request.stop = &stop;
    return send_many(values, request);
  }
  template <class Rep, class Period>
  publish_result publish_many_for(std::chrono::duration<Rep, Period> wait, std::span<const E> values) const {
    detail::publish_request request;
    request.deadline = topic_.deadline_after(clamp_duration(wait));
    return send_many(values, request);
  }
  /// Takes what fits; `prefix()` tells how many leading events nobody refused.
  publish_result try_publish_many(std::span<const E> values) const { return send_many(values, never()); }

  /// For `co_await` in a task: waits at all full `block` subscriptions at once, and holds no thread. Gives a publish_result.
  /// The places in line are taken by the `co_await`; the event is built by the call. In a handler's coroutine it is an output
  /// of its lane. It does not suspend when nobody must wait, but now and then to let others go first.
  /// Cancel: who has accepted keeps the event, nobody is offered it twice; if nobody has, the await throws `cancelled`.
  [[nodiscard]] auto async_publish(const E& value) const { return awaiting(topic_, value); }
  [[nodiscard]] auto async_publish(E&& value) const {
    static_assert(!detail::destroyed_twice<E>,
                  "g++ 12 destroys an aggregate temporary inside co_await twice: use async_emplace(members...), or name "
                  "the event and publish it as an lvalue or as an event_ptr");
    return awaiting(topic_, std::move(value));
  }
  template <std::same_as<event_ptr<E>> Pointer>
  [[nodiscard]] auto async_publish(Pointer value) const {
    return awaiting(topic_, std::move(value));
  }
  template <class... Args>
    requires(!detail::begins_with_token<Args...>)
  [[nodiscard]] auto async_emplace(Args&&... args) const {
    static_assert((!detail::destroyed_twice<Args> && ...),
                  "g++ 12 destroys an aggregate temporary inside co_await twice: name it first, then std::move it");
    return awaiting(typename detail::publish_operation_of<E>::built(), topic_, std::forward<Args>(args)...);
  }

  /// The same with an Asio completion token, `void(boost::system::error_code, penstock::publish_result)`; defined in
  /// `<penstock/bus/asio.hpp>`. Completes by post on the associated executor. Cancel: `terminal` and `partial` at any time,
  /// `total` while nobody has accepted.
  template <class V, class Token>
    requires std::same_as<std::remove_cvref_t<V>, E> || std::same_as<std::remove_cvref_t<V>, event_ptr<E>>
  auto async_publish(V&& value, Token&& token) const;
  /// Told from the form above by its first argument, a completion token for that signature.
  template <class Token, class... Args>
    requires(detail::begins_with_token<Token>)
  auto async_emplace(Token&& token, Args&&... args) const;

  std::string topic_name() const { return topic_.name(); }
  explicit operator bool() const noexcept { return static_cast<bool>(topic_); }

 private:
  static detail::publish_request never() noexcept {
    detail::publish_request request;
    request.wait = detail::wait_mode::never;
    return request;
  }
  static const E& as_event(const E& value) noexcept { return value; }
  static E&& as_event(E&& value) noexcept { return std::move(value); }

  /// Frees a block that was never filled, or drops the caller's reference to one that was.
  struct block_owner {
    void* memory;
    bool filled = false;
    ~block_owner() {
      if (memory == nullptr) return;
      if (filled)
        detail::release_block(memory);
      else
        detail::free_raw_block(memory);
    }
  };

  template <class... Args>
  static auto awaiting(Args&&... args) {
    return detail::operation_awaiter<detail::publish_operation_of<E>>(std::forward<Args>(args)...);
  }

  template <class V>
  publish_result send(V&& value, detail::publish_request request) const {
    request.count = 1;
    if constexpr (detail::in_place_event<E>) {
      request.events = std::addressof(value);
      return topic_.publish(request);
    } else {
      constexpr bool moves = !std::is_lvalue_reference_v<V> && !std::is_const_v<std::remove_reference_t<V>> &&
                             std::is_move_constructible_v<E> &&
                             (std::is_nothrow_move_constructible_v<E> || !std::is_copy_constructible_v<E>);
      static_assert(moves || std::is_copy_constructible_v<E>,
                    "this event cannot be copied: publish it with std::move, emplace, or as an event_ptr");
      if (!topic_.matched()) return topic_.publish_unmatched(1);
      const auto type = detail::describe_event<E>();
      block_owner block{detail::allocate_block(type.payload)};
      if (block.memory == nullptr) return publish_result(errc::not_enough_memory);
      E* built = nullptr;
      if constexpr (moves)
        built = ::new (block.memory) E(std::move(value));
      else
        built = ::new (block.memory) E(std::as_const(value));
      block.filled = true;
      request.events = &block.memory;
      publish_result result = topic_.publish(request);
      if constexpr (moves && std::is_nothrow_move_constructible_v<E>) {
        if (result.accepted() + result.parked() == 0 && result.dropped() + result.rejected() == result.matched()) {
          std::destroy_at(std::addressof(value));  // nobody took it: the caller has it back
          ::new (const_cast<void*>(static_cast<const void*>(std::addressof(value)))) E(std::move(*built));
        }
      }
      return result;
    }
  }

  publish_result send_shared(event_ptr<E> value, detail::publish_request request) const {
    if (!value) return publish_result(errc::invalid_argument);
    request.count = 1;
    if constexpr (detail::in_place_event<E>) {
      request.events = value.get();
      return topic_.publish(request);
    } else {
      void* payload = const_cast<void*>(static_cast<const void*>(value.get()));
      request.events = &payload;
      return topic_.publish(request);
    }
  }

  template <class... Args>
  publish_result build(detail::publish_request request, Args&&... args) const {
    const auto make_in = [&](void* memory) {
      if constexpr (std::is_constructible_v<E, Args...>)
        return ::new (memory) E(std::forward<Args>(args)...);
      else
        return ::new (memory) E{std::forward<Args>(args)...};
    };
    request.count = 1;
    if constexpr (detail::in_place_event<E>) {
      alignas(E) std::byte memory[sizeof(E)];
      request.events = make_in(memory);
      return topic_.publish(request);
    } else {
      if (!topic_.matched()) return topic_.publish_unmatched(1);
      const auto type = detail::describe_event<E>();
      block_owner block{detail::allocate_block(type.payload)};
      if (block.memory == nullptr) return publish_result(errc::not_enough_memory);
      make_in(block.memory);
      block.filled = true;
      request.events = &block.memory;
      return topic_.publish(request);
    }
  }

  publish_result send_many(std::span<const E> values, detail::publish_request request) const {
    static_assert(std::is_copy_constructible_v<E>, "publish_many copies: a move-only event is published one by one");
    request.count = values.size();
    if (values.empty()) return publish_result();
    if constexpr (detail::in_place_event<E>) {
      request.events = values.data();
      return topic_.publish(request);
    } else {
      if (!topic_.matched()) return topic_.publish_unmatched(values.size());
      struct block_array {
        std::unique_ptr<void*[]> blocks;
        std::size_t filled = 0;
        ~block_array() {
          for (std::size_t i = 0; i < filled; ++i) detail::release_block(blocks[i]);
        }
      } array{std::unique_ptr<void*[]>(new (std::nothrow) void*[values.size()])};
      if (!array.blocks) return publish_result(errc::not_enough_memory);
      const auto type = detail::describe_event<E>();
      for (const E& value : values) {
        block_owner block{detail::allocate_block(type.payload)};
        if (block.memory == nullptr) return publish_result(errc::not_enough_memory);
        ::new (block.memory) E(value);
        array.blocks[array.filled++] = std::exchange(block.memory, nullptr);
      }
      request.events = array.blocks.get();
      return topic_.publish(request);
    }
  }

  detail::topic_handle topic_;
};

}  // namespace penstock
