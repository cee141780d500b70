// What an event is, by which name its topic goes, and the shared handle to one.
// Floor 5, room bus.
#pragma once

#include <penstock/base/errc.hpp>
#include <penstock/base/export.hpp>
#include <penstock/sync/event_block.hpp>

#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <type_traits>
#include <typeinfo>
#include <utility>

namespace penstock {

/// Gives an event type a stable name and a schema number. Specialise it to choose them:
/// `template <> struct penstock::event_name<order> { static constexpr std::string_view value = "order"; };`
/// (optionally with `static constexpr std::uint32_t schema = 2;`). Without it the demangled type name is used.
template <class E>
struct event_name {};

/// An event is a non-cv object type that can be moved or lives behind `event_ptr<E>`, and whose destructor does not throw.
template <class E>
concept event = std::is_object_v<E> && !std::is_array_v<E> && std::is_same_v<E, std::remove_cv_t<E>> &&
                std::is_nothrow_destructible_v<E>;

template <event E>
class dead_letter;

namespace detail {

template <class>
inline constexpr bool is_dead_letter = false;
template <class E>
inline constexpr bool is_dead_letter<dead_letter<E>> = true;

/// The description of an event type that the templates hand to the core. The core copies it.
struct event_type {
  payload_type payload;
  const std::type_info* type = nullptr;
  std::string_view given_name;  ///< from `event_name`, else empty
  std::uint32_t schema = 0;
  /// For a dead letter: the event it is of, by which its topic is found.
  const std::type_info* letter_of = nullptr;
  std::string_view letter_of_name;
};

template <class E>
inline constexpr bool in_place_event = std::is_trivially_copyable_v<E> && sizeof(E) <= largest_in_place &&
                                       alignof(E) <= largest_in_place_align;

template <class E>
event_type describe_event() noexcept {
  static_assert(event<E>, "an event is a non-cv object type with a destructor that does not throw");
  event_type type;
  type.payload.size = sizeof(E);
  type.payload.align = alignof(E);
  type.payload.in_place = in_place_event<E>;
  if constexpr (!std::is_trivially_destructible_v<E>)
    type.payload.destroy = [](void* payload) noexcept { std::destroy_at(static_cast<E*>(payload)); };
  type.type = &typeid(E);
  if constexpr (requires { event_name<E>::value; }) type.given_name = event_name<E>::value;
  if constexpr (requires { event_name<E>::schema; }) type.schema = event_name<E>::schema;
  if constexpr (is_dead_letter<E>) {
    using buried = typename E::event_type;
    type.letter_of = &typeid(buried);
    if constexpr (requires { event_name<buried>::value; }) type.letter_of_name = event_name<buried>::value;
  }
  return type;
}

/// The name a topic of this type goes by: the given one, or the demangled type name.
PENSTOCK_API std::string event_display_name(const event_type& type);

}  // namespace detail

/// Shares one immutable event. Copying it copies no event. Threads: the count is thread-safe.
template <event E>
class event_ptr {
 public:
  event_ptr() noexcept = default;
  event_ptr(const event_ptr& other) noexcept : payload_(other.payload_) {
    if (payload_ != nullptr) detail::retain_block(payload_);
  }
  event_ptr(event_ptr&& other) noexcept : payload_(std::exchange(other.payload_, nullptr)) {}
  event_ptr& operator=(event_ptr other) noexcept {
    std::swap(payload_, other.payload_);
    return *this;
  }
  ~event_ptr() {
    if (payload_ != nullptr) detail::release_block(payload_);
  }

  explicit operator bool() const noexcept { return payload_ != nullptr; }
  const E& operator*() const noexcept { return *static_cast<const E*>(payload_); }
  const E* operator->() const noexcept { return static_cast<const E*>(payload_); }
  const E* get() const noexcept { return static_cast<const E*>(payload_); }

  /// Takes over one reference to a block. For the library's own use.
  static event_ptr adopt(void* payload) noexcept {
    event_ptr result;
    result.payload_ = payload;
    return result;
  }
  void* release() noexcept { return std::exchange(payload_, nullptr); }

 private:
  void* payload_ = nullptr;
};

/// Builds an event in place. Throws std::bad_alloc, and what the constructor throws.
template <event E, class... Args>
event_ptr<E> make_event(Args&&... args) {
  const auto type = detail::describe_event<E>();
  void* memory = detail::allocate_block(type.payload);
  if (memory == nullptr) throw std::bad_alloc();
  try {
    if constexpr (std::is_constructible_v<E, Args...>)
      ::new (memory) E(std::forward<Args>(args)...);
    else
      ::new (memory) E{std::forward<Args>(args)...};
  } catch (...) {
    detail::free_raw_block(memory);
    throw;
  }
  return event_ptr<E>::adopt(memory);
}

namespace detail {

/// Keeps an event that the core has handed to a call or a hook: shares its block, or copies what travels in place.
template <class E>
event_ptr<E> share_event(const E& event) {
  if constexpr (in_place_event<E>) {
    return make_event<E>(event);
  } else {
    auto* payload = const_cast<void*>(static_cast<const void*>(&event));
    retain_block(payload);
    return event_ptr<E>::adopt(payload);
  }
}

}  // namespace detail
}  // namespace penstock
