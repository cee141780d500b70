// A move-only callable wrapper, so that <functional> stays out of the light headers.
// Floor 0, room base.
#pragma once

#include <cstddef>
#include <new>
#include <type_traits>
#include <utility>

namespace penstock {

template <class Signature>
class unique_function;

/// Owns one callable of any type, also a move-only one. Empty when default-constructed.
/// Moving one runs no code of the callable's: it is a copy of bytes, or of a pointer.
/// Cost: no allocation to build from a trivially copyable callable of up to 48 bytes (a lambda that captures
/// references, pointers and numbers), which lies inside and moves along; one for any other, which stays where it is.
/// A call through a pointer.
template <class Result, class... Args>
class unique_function<Result(Args...)> {
 public:
  unique_function() noexcept = default;
  unique_function(std::nullptr_t) noexcept {}

  template <class F>
    requires(!std::is_same_v<std::decay_t<F>, unique_function> &&
             std::is_invocable_r_v<Result, std::decay_t<F>&, Args...>)
  unique_function(F&& callable) {
    using target = std::decay_t<F>;
    if constexpr (fits<target>) {
      ::new (static_cast<void*>(&place_)) target(std::forward<F>(callable));
    } else {
      place_.pointer = new target(std::forward<F>(callable));
      destroy_ = [](place& from) noexcept { delete static_cast<target*>(from.pointer); };
    }
    call_ = [](place& from, Args... args) -> Result {
      return static_cast<Result>(at<target>(from)(std::forward<Args>(args)...));
    };
  }

  unique_function(unique_function&& other) noexcept { take(other); }
  unique_function& operator=(unique_function&& other) noexcept {
    if (this != &other) {
      reset();
      take(other);
    }
    return *this;
  }
  unique_function(const unique_function&) = delete;
  unique_function& operator=(const unique_function&) = delete;
  ~unique_function() { reset(); }

  explicit operator bool() const noexcept { return call_ != nullptr; }
  Result operator()(Args... args) { return call_(place_, std::forward<Args>(args)...); }

 private:
  union place {
    void* pointer;
    alignas(std::max_align_t) unsigned char bytes[48];
  };
  template <class F>
  static constexpr bool fits =
      std::is_trivially_copyable_v<F> && sizeof(F) <= sizeof(place) && alignof(F) <= alignof(place);

  template <class F>
  static F& at(place& from) noexcept {
    if constexpr (fits<F>)
      return *static_cast<F*>(static_cast<void*>(&from));
    else
      return *static_cast<F*>(from.pointer);
  }

  // This one is empty.
  void take(unique_function& other) noexcept {
    if (!other) return;
    place_ = other.place_;
    call_ = std::exchange(other.call_, nullptr);
    destroy_ = std::exchange(other.destroy_, nullptr);
  }
  void reset() noexcept {
    call_ = nullptr;
    if (destroy_ != nullptr) std::exchange(destroy_, nullptr)(place_);
  }

  place place_;
  Result (*call_)(place&, Args...) = nullptr;
  void (*destroy_)(place&) noexcept = nullptr;  // null: nothing to be done
};

}  // namespace penstock
