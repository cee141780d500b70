// A handler with its type erased: what the core knows of user code.
// Floor 5, room bus.
#pragma once

#include <penstock/bus/call.hpp>
#include <penstock/bus/dead_letter.hpp>
#include <penstock/bus/event.hpp>
#include <penstock/exec/task.hpp>

#include <type_traits>
#include <utility>

namespace penstock::detail {

/// The core owns it from the moment it is passed.
struct handler_object {
  enum class kind : unsigned char {
    none,
    plain,      ///< handled when `run` returns
    coroutine,  ///< `run` puts the task that handles it into `started`
  };
  void* target = nullptr;
  void (*run)(void* target, const void* event, const call& info, task<void>& started) = nullptr;
  void (*destroy)(void* target) noexcept = nullptr;
  burial dead_letters = nullptr;
  kind is = kind::none;
};

/// What else a handler may return, and how it becomes a task; `bus/asio.hpp` has it for `asio::awaitable<void>`.
template <class Result>
struct handler_result_adaptor;

template <class Result>
concept adapted_result = requires(Result&& result) { handler_result_adaptor<Result>::to_task(std::move(result)); };

template <class Result>
inline constexpr bool is_handler_result = std::is_void_v<Result> || std::is_same_v<Result, task<void>> || adapted_result<Result>;

template <event E, class Target>
decltype(auto) call_handler(void* self, const void* event, const call& info) {
  auto& handler = *static_cast<Target*>(self);
  const E& value = *static_cast<const E*>(event);
  if constexpr (std::is_invocable_v<Target&, const E&, const call&>)
    return handler(value, info);
  else
    return handler(value);
}

template <event E, class F>
handler_object erase_handler(F&& handler) {
  using target = std::decay_t<F>;
  constexpr bool callable = std::is_invocable_v<target&, const E&, const call&> || std::is_invocable_v<target&, const E&>;
  static_assert(callable, "a handler is callable as (const E&) or (const E&, const penstock::call&)");
  static_assert(std::is_nothrow_destructible_v<target>, "a handler's destructor must not throw");
  handler_object made;
  if constexpr (callable) {
    using result = decltype(call_handler<E, target>(nullptr, nullptr, std::declval<const call&>()));
    static_assert(is_handler_result<result>,
                  "a handler returns void, penstock::task<void>, or with <penstock/bus/asio.hpp> "
                  "boost::asio::awaitable<void>");
    made.is = std::is_void_v<result> ? handler_object::kind::plain : handler_object::kind::coroutine;
    made.run = [](void* self, const void* event, const call& info, task<void>& started) {
      static_cast<void>(started);
      if constexpr (std::is_void_v<result>)
        call_handler<E, target>(self, event, info);
      else if constexpr (std::is_same_v<result, task<void>>)
        started = call_handler<E, target>(self, event, info);
      else if constexpr (adapted_result<result>)
        started = handler_result_adaptor<result>::to_task(call_handler<E, target>(self, event, info));
    };
  }
  auto* owned = new target(std::forward<F>(handler));
  made.target = owned;
  made.destroy = [](void* self) noexcept { delete static_cast<target*>(self); };
  made.dead_letters = burial_of<E>();
  if constexpr (std::is_pointer_v<target> || (std::is_class_v<target> && requires { owned->operator bool(); })) {
    if (!static_cast<bool>(*owned)) {  // an empty function pointer or wrapper: subscribe refuses it
      delete owned;
      return {};
    }
  }
  return made;
}

}  // namespace penstock::detail
