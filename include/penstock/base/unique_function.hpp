// A move-only callable wrapper, so that <functional> stays out of the light headers.
// Floor 0, room base.
#pragma once

#include <cstddef>
#include <type_traits>
#include <utility>

namespace penstock {

template <class Signature>
class unique_function;

/// Owns one callable of any type, also a move-only one. Empty when default-constructed.
/// Cost: one allocation to build; a call through a pointer.
template <class Result, class... Args>
class unique_function<Result(Args...)> {
 public:
  unique_function() noexcept = default;
  unique_function(std::nullptr_t) noexcept {}

  template <class F>
    requires(!std::is_same_v<std::decay_t<F>, unique_function> &&
             std::is_invocable_r_v<Result, std::decay_t<F>&, Args...>)
  unique_function(F&& callable)
      : target_(new std::decay_t<F>(std::forward<F>(callable))),
        call_([](void* target, Args... args) -> Result {
          return static_cast<Result>((*static_cast<std::decay_t<F>*>(target))(std::forward<Args>(args)...));
        }),
        destroy_([](void* target) noexcept { delete static_cast<std::decay_t<F>*>(target); }) {}

  unique_function(unique_function&& other) noexcept
      : target_(std::exchange(other.target_, nullptr)), call_(other.call_), destroy_(other.destroy_) {}
  unique_function& operator=(unique_function&& other) noexcept {
    if (this != &other) {
      reset();
      target_ = std::exchange(other.target_, nullptr);
      call_ = other.call_;
      destroy_ = other.destroy_;
    }
    return *this;
  }
  unique_function(const unique_function&) = delete;
  unique_function& operator=(const unique_function&) = delete;
  ~unique_function() { reset(); }

  explicit operator bool() const noexcept { return target_ != nullptr; }
  Result operator()(Args... args) { return call_(target_, std::forward<Args>(args)...); }

 private:
  void reset() noexcept {
    if (target_ != nullptr) destroy_(std::exchange(target_, nullptr));
  }

  void* target_ = nullptr;
  Result (*call_)(void*, Args...) = nullptr;
  void (*destroy_)(void*) noexcept = nullptr;
};

}  // namespace penstock
