// The coroutine type: lazy, owned, resumed on its lane only.
// Floor 2, room exec.
#pragma once

#include <penstock/base/export.hpp>
#include <penstock/exec/cancelled.hpp>
#include <penstock/exec/lane.hpp>

#include <concepts>
#include <coroutine>
#include <exception>
#include <memory>
#include <new>
#include <optional>
#include <type_traits>
#include <utility>

namespace penstock {

template <class T = void>
class task;

namespace detail {

class task_root;
class task_promise_base;

/// What one frame waits for, outside its task. At most one per root at any time: the innermost frame's.
/// Threads: `suspend` and `cancel` on the lane; `wake` from anywhere, once for each `suspend` that returned true.
class PENSTOCK_API task_waiter : public lane_item {
 public:
  task_waiter() noexcept = default;
  task_waiter(const task_waiter&) = delete;
  task_waiter& operator=(const task_waiter&) = delete;
  /// The task was asked to stop while this waits. Ends the waiting as soon as it can, by `wake`.
  virtual void cancel() noexcept = 0;

 protected:
  ~task_waiter() = default;

  /// In `await_suspend`, before anything may call `wake`. False: a cancellation is in force, do not begin.
  bool suspend(task_root& root, std::coroutine_handle<> frame) noexcept;
  /// After `suspend`: it was decided at once, the frame does not wait after all.
  void unsuspend() noexcept;
  /// The frame goes on, on its lane.
  void wake() noexcept;
  /// The same, after others on the lane's worker have had a turn.
  void wake_after_turn() noexcept;
  task_root& root() const noexcept { return *root_; }

 private:
  static void resume(lane_item& self, turn how);
  task_root* root_ = nullptr;
  std::coroutine_handle<> frame_;
};

/// One tree of frames that call each other, and the pump that resumes them: a frame that awaits another stores it here and
/// returns, so the stack never grows with the number of awaits, on any compiler and at any level of optimisation.
/// Threads: on its lane only, as long as it runs.
class PENSTOCK_API task_root {
 public:
  explicit task_root(lane_base& lane) noexcept : lane_(&lane) {}
  task_root(const task_root&) = delete;
  task_root& operator=(const task_root&) = delete;

  lane_base& home() const noexcept { return *lane_; }

  /// The innermost frame that has begun and not ended; the awaits above it lead to the outermost.
  void innermost(task_promise_base* frame) noexcept { innermost_ = frame; }
  /// Destroys every frame but the outermost, from the innermost on: the stack stays flat however deep they are.
  void destroy_inner_frames() noexcept;

  /// What the pump resumes next.
  void next(std::coroutine_handle<> frame) noexcept { next_ = frame; }
  /// The outermost frame has come to its end.
  void outermost_ended() noexcept { ended_ = true; }
  /// Resumes until every frame waits or the outermost has ended. Throws only `abi::__forced_unwind`.
  void pump();

  /// The request in force, or null. The first one stays.
  const std::shared_ptr<const cause>& cancellation() const noexcept { return cancellation_; }
  bool is_cancelled() const noexcept { return cancellation_ != nullptr; }
  void cancel_now(std::shared_ptr<const cause> why) noexcept;
  [[noreturn]] void throw_cancelled() const;

  /// Whether an operation that need not wait may go on at once. False now and then: others on this worker get a turn.
  bool may_go_on() noexcept { return turn_left_ > 0 && --turn_left_ > 0; }
  void begin_turn() noexcept { turn_left_ = turn; }

  /// What the innermost frame waits for; null: nothing.
  task_waiter* waits_for() const noexcept { return waiting_; }
  void waits_for(task_waiter* waiter) noexcept { waiting_ = waiter; }
  /// The lane's pool has ended while a frame waits: destroy the frames.
  virtual void abandoned() noexcept = 0;

 protected:
  ~task_root() = default;
  /// Called by the pump, last; this object may be gone when it returns.
  virtual void finished() noexcept = 0;
  /// Ready for another outermost frame.
  void reset() noexcept;

 private:
  lane_base* const lane_;
  std::coroutine_handle<> next_;
  static constexpr unsigned turn = 64;
  task_waiter* waiting_ = nullptr;
  task_promise_base* innermost_ = nullptr;
  unsigned turn_left_ = turn;
  bool ended_ = false;
  std::shared_ptr<const cause> cancellation_;
};

/// The current exception; a forced unwind (thread cancellation) is thrown on instead.
PENSTOCK_API std::exception_ptr caught_in_frame();
/// Throws std::system_error: an empty task was awaited or started.
[[noreturn]] PENSTOCK_API void throw_empty_task();
/// Throws std::system_error with `would_deadlock`: a task was awaited that waits for the awaiting one.
[[noreturn]] PENSTOCK_API void throw_awaits_itself();

/// For the `task_awaitable` operations of penstock: which awaits a task takes as they are.
struct task_awaitable {};

/// How a task awaits what is not penstock's own; `exec/asio.hpp` has those for Asio.
template <class Awaited>
struct await_adaptor;

template <class Awaited>
concept adapted_awaitable = requires(Awaited&& awaited) { await_adaptor<std::remove_cvref_t<Awaited>>::adapt(std::forward<Awaited>(awaited)); };

/// Awaits an operation where it stands: it lives as long as the expression, and g++ 12 would move what it is given.
template <class Operation>
struct await_in_place {
  Operation* target;
  bool await_ready() const noexcept { return target->await_ready(); }
  template <class Promise>
  bool await_suspend(std::coroutine_handle<Promise> frame) const noexcept {
    return target->await_suspend(frame);
  }
  decltype(auto) await_resume() const { return target->await_resume(); }
};

template <class>
inline constexpr bool is_task = false;
template <class T>
inline constexpr bool is_task<task<T>> = true;

class task_promise_base {
 public:
  struct final_awaiter {
    bool await_ready() const noexcept { return false; }
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> ended) const noexcept {
      ended.promise().ended();
    }
    void await_resume() const noexcept {}
  };
  std::suspend_always initial_suspend() const noexcept { return {}; }
  final_awaiter final_suspend() const noexcept { return {}; }
  void unhandled_exception() { error_ = caught_in_frame(); }

  /// On `root`, called by `caller` through the await that owns this frame in `owner`; for the outermost one both are null.
  void begin(task_root& root, task_promise_base* caller, std::coroutine_handle<> go_on, void** owner) noexcept {
    root_ = &root;
    caller_ = caller;
    go_on_ = go_on;
    owner_ = owner;
    root.innermost(this);
  }
  bool begun() const noexcept { return root_ != nullptr; }
  task_root& root() const noexcept { return *root_; }
  void ended() noexcept {
    root_->innermost(caller_);
    if (go_on_)
      root_->next(go_on_);
    else
      root_->outermost_ended();
  }
  task_promise_base* caller() const noexcept { return caller_; }
  /// Takes this frame from the await that owns it.
  void* disown() noexcept { return std::exchange(*owner_, nullptr); }
  const std::exception_ptr& error() const noexcept { return error_; }

  template <class Awaited>
  decltype(auto) await_transform(Awaited&& awaited) {
    using plain = std::remove_cvref_t<Awaited>;
    if constexpr (is_task<plain>) {
      static_assert(!std::is_lvalue_reference_v<Awaited>, "a task is awaited once: co_await std::move(it)");
      return std::move(awaited).awaiter();
    } else if constexpr (std::derived_from<plain, task_awaitable>) {
      return await_in_place<plain>{std::addressof(awaited)};
    } else {
      static_assert(adapted_awaitable<Awaited>,
                    "a penstock::task awaits penstock's tasks and operations; for Asio's operations (with asio::deferred) "
                    "and asio::awaitable include <penstock/exec/asio.hpp>");
      if constexpr (adapted_awaitable<Awaited>) return await_adaptor<plain>::adapt(std::forward<Awaited>(awaited));
    }
  }

 protected:
  void rethrow_if_failed() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  task_root* root_ = nullptr;
  task_promise_base* caller_ = nullptr;
  std::coroutine_handle<> go_on_;
  void** owner_ = nullptr;
  std::exception_ptr error_;
};

template <class T>
class task_promise final : public task_promise_base {
 public:
  task<T> get_return_object() noexcept;
  template <class U = T>
    requires std::is_constructible_v<T, U&&>
  void return_value(U&& value) {
    value_.emplace(std::forward<U>(value));
  }
  T take() {
    rethrow_if_failed();
    return std::move(*value_);
  }

 private:
  std::optional<T> value_;
};

template <class T>
class task_promise<T&> final : public task_promise_base {
 public:
  task<T&> get_return_object() noexcept;
  void return_value(T& value) noexcept { value_ = std::addressof(value); }
  T& take() {
    rethrow_if_failed();
    return *value_;
  }

 private:
  T* value_ = nullptr;
};

template <>
class task_promise<void> final : public task_promise_base {
 public:
  task<void> get_return_object() noexcept;
  void return_void() const noexcept {}
  void take() const { rethrow_if_failed(); }
};

/// Owns the frame it awaits, and destroys it at the end of the expression.
template <class T>
class task_awaiter {
 public:
  explicit task_awaiter(std::coroutine_handle<task_promise<T>> callee) noexcept : frame_(callee.address()) {}
  task_awaiter(const task_awaiter&) = delete;
  task_awaiter& operator=(const task_awaiter&) = delete;
  ~task_awaiter() {
    if (frame_ != nullptr) callee().destroy();
  }
  bool await_ready() const noexcept { return false; }
  template <class Promise>
  bool await_suspend(std::coroutine_handle<Promise> caller) noexcept {
    root_ = &caller.promise().root();
    refused_ = root_->is_cancelled();
    if (refused_) return false;
    callee().promise().begin(*root_, &caller.promise(), caller, &frame_);
    root_->next(callee());
    return true;
  }
  T await_resume() const {
    if (refused_) root_->throw_cancelled();
    return callee().promise().take();
  }

 private:
  std::coroutine_handle<task_promise<T>> callee() const noexcept {
    return std::coroutine_handle<task_promise<T>>::from_address(frame_);
  }
  void* frame_;
  task_root* root_ = nullptr;
  bool refused_ = false;
};

}  // namespace detail

/// A coroutine that has not begun. Awaiting it runs it, on the awaiting task's lane, and gives its result or throws what it
/// threw. Lazy: one that is never awaited nor started never runs, and its frame dies with this.
///
/// What may be awaited inside: other tasks, penstock's own operations (`sleep_for`, `async_publish`, `next`, …), and with
/// `<penstock/exec/asio.hpp>` any Asio operation with `asio::deferred`, and `asio::awaitable`.
/// Cancel: every await throws `cancelled` while a request to stop this task is in force.
/// Threads: its code runs on its lane only, whatever thread that is on at the time; `thread_local` means nothing in it.
/// Cost: one allocation, the frame.
///
/// With g++ 12 write nothing but names, calls and plain values into an awaited expression: an aggregate temporary, a lambda
/// that captures by value, a `?:` of class type and braces are destroyed twice there. Penstock's own functions refuse the
/// forms they can see.
template <class T>
class [[nodiscard]] task {
 public:
  using promise_type = detail::task_promise<T>;
  using value_type = T;

  task() noexcept = default;
  task(task&& other) noexcept : frame_(std::exchange(other.frame_, nullptr)) {}
  task& operator=(task&& other) noexcept {
    if (this != &other) {
      if (frame_) frame_.destroy();
      frame_ = std::exchange(other.frame_, nullptr);
    }
    return *this;
  }
  task(const task&) = delete;
  task& operator=(const task&) = delete;
  ~task() {
    if (frame_) frame_.destroy();
  }

  explicit operator bool() const noexcept { return static_cast<bool>(frame_); }

  /// For the library's own use.
  detail::task_awaiter<T> awaiter() && {
    if (!frame_) detail::throw_empty_task();
    if (frame_.promise().begun()) detail::throw_awaits_itself();
    return detail::task_awaiter<T>(std::exchange(frame_, nullptr));
  }
  /// Makes it the outermost frame of `root`.
  std::coroutine_handle<> begin_on(detail::task_root& root) const noexcept {
    frame_.promise().begin(root, nullptr, nullptr, nullptr);
    return frame_;
  }
  std::coroutine_handle<promise_type> frame() const noexcept { return frame_; }
  explicit task(std::coroutine_handle<promise_type> frame) noexcept : frame_(frame) {}

 private:
  std::coroutine_handle<promise_type> frame_;
};

namespace detail {

template <class T>
task<T> task_promise<T>::get_return_object() noexcept {
  return task<T>(std::coroutine_handle<task_promise>::from_promise(*this));
}
template <class T>
task<T&> task_promise<T&>::get_return_object() noexcept {
  return task<T&>(std::coroutine_handle<task_promise>::from_promise(*this));
}
inline task<void> task_promise<void>::get_return_object() noexcept {
  return task<void>(std::coroutine_handle<task_promise>::from_promise(*this));
}

}  // namespace detail
}  // namespace penstock
