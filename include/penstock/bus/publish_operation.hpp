// One asynchronous publish: waits at all full channels at once and holds no thread.
// Floor 5, room bus.
#pragma once

#include <penstock/base/export.hpp>
#include <penstock/bus/event.hpp>
#include <penstock/bus/publish_result.hpp>
#include <penstock/bus/topic_handle.hpp>
#include <penstock/exec/operation.hpp>

#include <atomic>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

namespace penstock::detail {

/// What g++ 12 destroys twice when it is written as a temporary inside `co_await`.
template <class V>
inline constexpr bool destroyed_twice =
    !std::is_lvalue_reference_v<V> && std::is_aggregate_v<std::remove_cvref_t<V>> &&
    !std::is_trivially_destructible_v<std::remove_cvref_t<V>>;

/// Whether T is a completion token for a publish. `<penstock/bus/asio.hpp>` knows which are; without it none is.
template <class T>
struct names_a_token : std::false_type {};
template <class First = void, class...>
inline constexpr bool begins_with_token = names_a_token<std::remove_cvref_t<First>>::value;

/// Holds the event, the places in line and the result. Threads: `start` once; `cancel` and the rest after it, not at the same
/// time as each other. In a lane's context it is that lane's output: it counts against `max_parked`, and the lane takes no
/// further event until it is decided.
class PENSTOCK_API publish_operation : public operation {
 public:
  bool start() noexcept;
  void cancel(cancel_force force) noexcept;
  bool gave_up() const noexcept { return cancelled_ && result_.accepted() == 0; }
  publish_result result() noexcept { return std::move(result_); }

 protected:
  explicit publish_operation(topic_handle topic) noexcept : topic_(std::move(topic)) {}
  ~publish_operation();
  const topic_handle& topic() const noexcept { return topic_; }
  /// Where an event that travels in place is to be built, before `start`.
  void* in_place() noexcept { return event_; }
  /// Takes over one reference to the event's block; null: refused with `why`.
  void take_block(void* payload, errc why = errc::not_enough_memory) noexcept {
    block_ = payload;
    if (payload == nullptr) refused_ = why;
    has_block_ = true;
  }
  /// Nobody subscribes: there is nothing to hold.
  void take_nothing() noexcept { unmatched_ = true; }

 private:
  friend class async_lines;
  struct line;
  struct far_lines;
  static constexpr std::size_t near = 4;
  static constexpr std::size_t line_bytes = 184;
  static constexpr std::size_t lines_align = 8;

  line& at(std::size_t index) noexcept;
  line* next_line(std::size_t most) noexcept;
  void hold() noexcept;
  void unhold() noexcept;
  void one_less() noexcept;
  void gather() noexcept;

  topic_handle topic_;
  alignas(largest_in_place_align) std::byte event_[largest_in_place];
  void* block_ = nullptr;
  errc refused_ = errc::none;
  bool has_block_ = false;
  bool unmatched_ = false;
  bool cancelled_ = false;
  publish_result result_;
  std::uint32_t lines_ = 0;
  /// Lines it still stands in, plus one for whoever is inside `start` or `cancel`.
  std::atomic<std::uint32_t> open_{0};
  far_lines* far_ = nullptr;
  alignas(lines_align) std::byte near_[near * line_bytes];
};

/// Builds the event of one type.
template <event E>
class publish_operation_of : public publish_operation {
 public:
  struct built {};
  template <class V>
  publish_operation_of(const topic_handle& topic, V&& value) : publish_operation(topic) {
    if constexpr (std::is_same_v<std::remove_cvref_t<V>, event_ptr<E>>)
      share(std::forward<V>(value));
    else
      build(std::forward<V>(value));
  }
  template <class... Args>
  publish_operation_of(built, const topic_handle& topic, Args&&... args) : publish_operation(topic) {
    build(std::forward<Args>(args)...);
  }

 private:
  template <class... Args>
  void build(Args&&... args) {
    const auto make_in = [&](void* memory) {
      if constexpr (std::is_constructible_v<E, Args...>)
        ::new (memory) E(std::forward<Args>(args)...);
      else
        ::new (memory) E{std::forward<Args>(args)...};
    };
    if constexpr (in_place_event<E>) {
      make_in(in_place());
    } else {
      if (!topic().matched()) return take_nothing();
      void* memory = allocate_block(describe_event<E>().payload);
      if (memory != nullptr) {
        try {
          make_in(memory);
        } catch (...) {
          free_raw_block(memory);
          throw;
        }
      }
      take_block(memory);
    }
  }
  void share(event_ptr<E> value) {
    if constexpr (in_place_event<E>) {
      if (value)
        ::new (in_place()) E(*value);
      else
        take_block(nullptr, errc::invalid_argument);
    } else {
      take_block(value.release(), errc::invalid_argument);
    }
  }
};

}  // namespace penstock::detail
