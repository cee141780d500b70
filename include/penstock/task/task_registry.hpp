// Background work by name: spawned, watched, started again, stopped in order, and accounted for.
// Floor 4, room task.
#pragma once

#include <penstock/base/call_site.hpp>
#include <penstock/base/export.hpp>
#include <penstock/base/unique_function.hpp>
#include <penstock/exec/operation.hpp>
#include <penstock/task/task_entry.hpp>
#include <penstock/task/task_handle.hpp>
#include <penstock/task/task_options.hpp>
#include <penstock/task/task_report.hpp>

#include <chrono>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace penstock {

namespace detail {

class registry_core;

/// Asks all tasks of a group to stop and waits for their end. Threads: as every operation.
class PENSTOCK_API registry_close_operation : public operation {
 public:
  registry_close_operation(registry_core* core, std::string_view owner, std::chrono::nanoseconds limit);
  bool start() noexcept;
  void cancel(cancel_force force) noexcept;
  bool gave_up() const noexcept { return cancelled_; }
  /// Throws std::bad_alloc.
  task_report result() const;

 protected:
  ~registry_close_operation();

 private:
  friend class registry_core;
  struct timer_slot {
    timer_node node;
    registry_close_operation* owner = nullptr;
  };
  static void deadline_passed(timer_node& fired) noexcept;
  void all_ended() noexcept;
  void drop_timer() noexcept;
  void drop() noexcept;

  registry_core* const core_;
  const std::string owner_;
  const std::chrono::nanoseconds limit_;
  bool cancelled_ = false;
  errc failed_ = errc::none;
  operation_holds holds_;
  timer_slot timer_;
  struct session;
  std::unique_ptr<session> session_;
  registry_close_operation* next_ = nullptr;  // guarded by the core
};

template <class F>
concept makes_task = requires(F& f) { f(); } && is_task<std::invoke_result_t<F&>>;
template <class F>
concept stoppable_function = std::is_invocable_r_v<void, F&, std::stop_token> &&
                             std::is_void_v<std::invoke_result_t<F&, std::stop_token>>;
template <class F>
concept plain_function = std::is_invocable_v<F&> && std::is_void_v<std::invoke_result_t<F&>>;

/// A null function pointer, or a wrapper with nothing in it.
template <class F>
bool is_empty_function(const F& f) noexcept {
  if constexpr (std::is_pointer_v<F> || (std::is_class_v<F> && requires { f.operator bool(); }))
    return !static_cast<bool>(f);
  else
    return false;
}

template <class Work>
struct task_result {
  static_assert(stoppable_function<Work> || plain_function<Work> || makes_task<Work> || is_task<Work>,
                "a background task is a penstock::task<T>, a function that makes one, or a function that returns void and "
                "takes nothing or a std::stop_token");
  using type = void;
};
template <makes_task Work>
struct task_result<Work> {
  using type = typename std::invoke_result_t<Work&>::value_type;
};
template <class T>
struct task_result<task<T>> {
  using type = T;
};

}  // namespace detail

/// A handle to a task that gives a value.
template <class T>
class task_handle_of : public task_handle {
 public:
  task_handle_of() noexcept = default;
  explicit task_handle_of(detail::coroutine_entry<T>* adopted) noexcept : task_handle(adopted) {}
  /// The value; null unless it has completed. Valid as long as a handle to the task.
  const T* value() const noexcept {
    return status() == task_status::completed ? static_cast<detail::coroutine_entry<T>*>(entry_)->value() : nullptr;
  }
};

/// What `try_spawn` gives: a handle, or why there is none.
template <class Handle>
struct spawn_result {
  Handle handle;
  errc error = errc::none;
  std::string text;
  explicit operator bool() const noexcept { return error == errc::none; }
};

/// The background tasks of a runtime, or one group of them. A cheap handle; may outlive the runtime, and then refuses with
/// `closed`. Threads: thread-safe.
class PENSTOCK_API task_registry {
 public:
  explicit task_registry(detail::registry_core* adopted) noexcept : core_(adopted) {}
  task_registry(const task_registry& other);
  task_registry(task_registry&& other) noexcept;
  task_registry& operator=(task_registry other) noexcept;
  ~task_registry();

  /// Starts a task. `work` is a `penstock::task<T>`; a function that makes one; or a function that returns void and takes
  /// nothing or a std::stop_token. It runs on its pool, never on the caller's stack. What it throws goes to `on_failure`,
  /// with its name. Its code is destroyed when it has ended, before that is told. What is there for long takes a stop token, or is
  /// a coroutine: a function without one has to end by itself, and the watchdog names it when it does not.
  /// Throws std::system_error: `closed` once the registry, the group or the runtime is ending (the work is destroyed unrun);
  /// `invalid_argument` for an empty name, an empty task or function, or a policy out of its range.
  /// Gives a task_handle, or a task_handle_of<T> for a coroutine with a value.
  template <class Work>
  auto spawn(std::string_view name, spawn_options options, Work&& work, call_site where = call_site::here()) const {
    auto* made = make(name, std::move(options), std::forward<Work>(work), where);
    return start(made);
  }
  template <class Work>
  auto spawn(std::string_view name, Work&& work, call_site where = call_site::here()) const {
    return spawn(name, spawn_options(), std::forward<Work>(work), where);
  }
  /// The same, that reports instead of throwing std::system_error.
  template <class Work>
  auto try_spawn(std::string_view name, spawn_options options, Work&& work, call_site where = call_site::here()) const {
    using handle = decltype(spawn(name, std::move(options), std::forward<Work>(work), where));
    spawn_result<handle> result;
    try {
      result.handle = spawn(name, std::move(options), std::forward<Work>(work), where);
    } catch (const std::system_error& refused) {
      result.error = errc_of(refused);
      result.text = refused.what();
    }
    return result;
  }

  /// Calls `tick` at each multiple of `period` from now on, the first time after one period; a function as for `spawn`, or one
  /// that makes a task<void>. Ticks never overlap. What a tick throws is told to `on_failure`, and the next one comes all the
  /// same. A function runs on "blocking" (or where the options say), the waiting holds no thread.
  /// Throws as `spawn`; `invalid_argument` for a period of zero or less, and for a restart policy.
  template <class Rep, class Period, class Tick>
  task_handle every(std::string_view name, std::chrono::duration<Rep, Period> period, spawn_options options, Tick&& tick,
                    missed_ticks missed = missed_ticks::skip, call_site where = call_site::here()) const {
    using plain = std::decay_t<Tick>;
    static_assert(detail::stoppable_function<plain> || detail::plain_function<plain> || detail::makes_task<plain>,
                  "a tick is a function that returns void and takes nothing or a std::stop_token, or one that makes a "
                  "penstock::task<void>");
    if (detail::is_empty_function(tick)) refuse_empty(name);
    if constexpr (detail::makes_task<plain>) {
      return start_periodic(name, clamp_duration(period), std::move(options), missed,
                            unique_function<task<void>()>(std::forward<Tick>(tick)), {}, where);
    } else {
      return start_periodic(name, clamp_duration(period), std::move(options), missed, {},
                            detail::with_stop_token(std::forward<Tick>(tick)), where);
    }
  }
  template <class Rep, class Period, class Tick>
  task_handle every(std::string_view name, std::chrono::duration<Rep, Period> period, Tick&& tick,
                    missed_ticks missed = missed_ticks::skip, call_site where = call_site::here()) const {
    return every(name, period, spawn_options(), std::forward<Tick>(tick), missed, where);
  }

  /// The tasks of one owner, as a registry of its own: what is spawned through it belongs to that group, and its `close` ends
  /// only that. Throws std::system_error (`invalid_argument`) for an empty name.
  task_registry owner(std::string_view name) const;

  /// All tasks that have not ended, in the order they were spawned. Stops nothing.
  std::vector<task_info> snapshot() const;
  task_counts counts() const noexcept;

  /// Asks all to stop; refuses nothing.
  void cancel_all(std::string_view reason) const noexcept;
  /// Refuses what comes now, asks all to stop, and waits for their end; gives what became of each. Where waiting is not
  /// allowed, and in one of the tasks it closes, it returns at once. A task past the deadline is left running, and
  /// named. Idempotent. Throws std::bad_alloc.
  template <class Rep, class Period>
  task_report close(std::chrono::duration<Rep, Period> limit, std::string_view reason = "closed") const {
    return close_within(clamp_duration(limit), reason);
  }
  /// The same for `co_await` in a task; gives a task_report. One of the registry's own tasks is itself asked to stop, so its
  /// await throws `cancelled`. Cancel: the waiting ends, the closing goes on.
  template <class Rep, class Period>
  [[nodiscard]] auto async_close(std::chrono::duration<Rep, Period> limit) const {
    return detail::operation_awaiter<detail::registry_close_operation>(core_, owner_name(), clamp_duration(limit));
  }
  /// With an Asio completion token, `void(boost::system::error_code, penstock::task_report)`; defined in
  /// `<penstock/task/asio.hpp>`.
  template <class Rep, class Period, class Token>
  auto async_close(std::chrono::duration<Rep, Period> limit, Token&& token) const;

  /// For the library's own use.
  detail::registry_core* core() const noexcept { return core_; }

 private:
  [[noreturn]] static void refuse_empty(std::string_view name);
  static errc errc_of(const std::system_error& refused) noexcept;
  std::string_view owner_name() const noexcept { return owner_ ? std::string_view(*owner_) : std::string_view(); }
  detail::entry_recipe recipe(std::string_view name, spawn_options&& options, detail::task_body body, bool once,
                              call_site where) const;
  void admit(detail::task_entry* made) const;
  scheduler_ptr completion_pool() const noexcept;
  task_report close_within(std::chrono::nanoseconds limit, std::string_view reason) const;
  task_handle start_periodic(std::string_view name, std::chrono::nanoseconds period, spawn_options&& options,
                             missed_ticks missed, unique_function<task<void>()> makes,
                             unique_function<void(std::stop_token)> calls, call_site where) const;

  template <class Work>
  auto make(std::string_view name, spawn_options&& options, Work&& work, call_site where) const {
    using plain = std::decay_t<Work>;
    using result = typename detail::task_result<plain>::type;
    static_assert(!std::is_reference_v<result>, "a background task's value is kept by its handle: return it by value");
    if constexpr (detail::is_task<plain>) {
      static_assert(!std::is_lvalue_reference_v<Work>, "a task is spawned once: spawn(name, std::move(it))");
      auto once = recipe(name, std::move(options), detail::task_body::coroutine, true, where);
      if (!work) refuse_empty(name);
      return new detail::coroutine_entry<result>(std::move(once), detail::gives_once<result>(std::move(work)));
    } else if constexpr (detail::makes_task<plain>) {
      auto made = recipe(name, std::move(options), detail::task_body::coroutine, false, where);
      if (detail::is_empty_function(work)) refuse_empty(name);
      return new detail::coroutine_entry<result>(std::move(made),
                                                 unique_function<task<result>()>(std::forward<Work>(work)));
    } else {
      constexpr auto body = detail::stoppable_function<plain> ? detail::task_body::stoppable_function
                                                             : detail::task_body::function;
      auto made = recipe(name, std::move(options), body, false, where);
      if (detail::is_empty_function(work)) refuse_empty(name);
      return new detail::function_entry(std::move(made),
                                        detail::with_stop_token(std::forward<Work>(work)));
    }
  }
  task_handle start(detail::function_entry* made) const {
    task_handle handle(made);
    admit(made);
    return handle;
  }
  template <class T>
  auto start(detail::coroutine_entry<T>* made) const {
    std::conditional_t<std::is_void_v<T>, task_handle, task_handle_of<T>> handle(made);
    admit(made);
    return handle;
  }

  detail::registry_core* core_;
  std::shared_ptr<const std::string> owner_;
};

}  // namespace penstock
