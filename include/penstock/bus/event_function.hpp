// A function of the user's that is called with an event of one type: a filter, or a hook.
// Floor 5, room bus.
#pragma once

#include <penstock/bus/event.hpp>

#include <type_traits>
#include <typeinfo>
#include <utility>

namespace penstock::detail {

template <class Signature>
class event_function;

/// Owns one callable as `Result(const E&, Args...)`, `E` erased. Cost: one allocation to build; a call through a
/// pointer.
template <class Result, class... Args>
class event_function<Result(Args...)> {
 public:
  event_function() noexcept = default;
  event_function(event_function&& other) noexcept { swap(other); }
  event_function& operator=(event_function&& other) noexcept {
    event_function taken(std::move(other));
    swap(taken);
    return *this;
  }
  event_function(const event_function&) = delete;
  event_function& operator=(const event_function&) = delete;
  ~event_function() { destroy(); }

  template <event E, class F>
  static event_function of(F&& callable) {
    using target = std::decay_t<F>;
    static_assert(std::is_nothrow_destructible_v<target>, "its destructor must not throw");
    event_function made;
    made.target_ = new target(std::forward<F>(callable));
    made.invoke_ = [](void* self, const void* event, Args... args) -> Result {
      return static_cast<Result>(
          (*static_cast<target*>(self))(*static_cast<const E*>(event), std::forward<Args>(args)...));
    };
    made.destroy_ = [](void* self) noexcept { delete static_cast<target*>(self); };
    made.event_ = &typeid(E);
    return made;
  }

  /// The callable ends, and is not called any more. Nothing that others may look at meanwhile changes.
  void destroy() noexcept {
    if (target_ != nullptr) destroy_(std::exchange(target_, nullptr));
  }

  /// Whether it was built from a callable.
  explicit operator bool() const noexcept { return invoke_ != nullptr; }
  Result operator()(const void* event, Args... args) const {
    return invoke_(target_, event, std::forward<Args>(args)...);
  }
  /// The event it was built for; null: it is empty.
  const std::type_info* event() const noexcept { return event_; }

 private:
  void swap(event_function& other) noexcept {
    std::swap(target_, other.target_);
    std::swap(invoke_, other.invoke_);
    std::swap(destroy_, other.destroy_);
    std::swap(event_, other.event_);
  }

  void* target_ = nullptr;
  Result (*invoke_)(void* target, const void* event, Args... args) = nullptr;
  void (*destroy_)(void* target) noexcept = nullptr;
  const std::type_info* event_ = nullptr;
};

}  // namespace penstock::detail
