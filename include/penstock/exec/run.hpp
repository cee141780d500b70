// Starting a task from code that is none: on a pool, with its end told to a function, or waited for.
// Floor 2, room exec.
#pragma once

#include <penstock/base/export.hpp>
#include <penstock/base/unique_function.hpp>
#include <penstock/exec/scheduler.hpp>
#include <penstock/exec/task.hpp>

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <stop_token>
#include <utility>

namespace penstock {

/// How a task ended: with a value, or with what it threw (`cancelled` among that).
template <class T>
class outcome {
 public:
  explicit outcome(std::exception_ptr error) noexcept : error_(std::move(error)) {}
  template <class... Args>
  explicit outcome(std::in_place_t, Args&&... args) : value_(std::in_place, std::forward<Args>(args)...) {}
  explicit operator bool() const noexcept { return value_.has_value(); }
  /// Null when there is a value.
  const std::exception_ptr& error() const noexcept { return error_; }
  /// The value, or throws what the task threw.
  T get() && {
    if (error_) std::rethrow_exception(error_);
    return std::move(*value_);
  }

 private:
  std::exception_ptr error_;
  std::optional<T> value_;
};

template <>
class outcome<void> {
 public:
  explicit outcome(std::exception_ptr error) noexcept : error_(std::move(error)) {}
  explicit outcome(std::in_place_t) noexcept {}
  explicit operator bool() const noexcept { return error_ == nullptr; }
  const std::exception_ptr& error() const noexcept { return error_; }
  void get() && {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::exception_ptr error_;
};

namespace detail {

/// How a started task came to its end.
enum class task_end : unsigned char {
  ran,          ///< its outermost frame has ended
  never_began,  ///< cancelled before its first step
  pool_ended,   ///< its pool has ended under it
};

/// A task that was started: its root, its lane, and who is told of its end. Counted; holds itself until it has ended.
class PENSTOCK_API started_task : public task_root {
 public:
  /// A lane of its own around `pool`. Throws std::bad_alloc, and std::system_error (`invalid_argument`) without a pool.
  explicit started_task(const scheduler_ptr& pool);
  /// On a lane that exists.
  explicit started_task(lane_base& lane) noexcept;
  virtual ~started_task();

  void retain() noexcept { count_.fetch_add(1, std::memory_order_relaxed); }
  void release() noexcept {
    if (count_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }

  /// Begins on the lane, soon. Waits: never.
  void start() noexcept;
  /// Any thread, any number of times; the first request stays. Does nothing when the task has ended.
  void request_cancel(std::shared_ptr<const cause> why) noexcept;
  /// The same with the cause made here. Without memory for its text the task is asked all the same.
  void request_cancel(cancel_kind kind, const char* who, const char* reason) noexcept;
  void abandoned() noexcept override;

 protected:
  /// The outermost frame; its promise has begun on this root.
  virtual std::coroutine_handle<> outermost() noexcept = 0;
  /// On the lane, once. Destroys the frames.
  virtual void deliver(task_end how) noexcept = 0;

 private:
  struct own_item : lane_item {
    started_task* owner = nullptr;
  };
  static void run_start(lane_item& self, lane_item::turn how);
  static void run_cancel(lane_item& self, lane_item::turn how);
  void finished() noexcept override;
  void end(task_end how) noexcept;

  std::atomic<std::uint32_t> count_{1};
  std::atomic<bool> asked_{false};
  bool over_ = false;  // the lane's own
  std::shared_ptr<const cause> asked_why_;  // written by whoever sets asked_, then put on the lane
  own_item start_;
  own_item cancel_;
};

/// `cancelled` for a task that never began, std::system_error for one whose pool has ended: `closed`, or after
/// fork `forked`.
PENSTOCK_API std::exception_ptr why_unfinished(task_end how, const task_root& root) noexcept;

template <class T, class Done>
class started final : public started_task {
 public:
  template <class Where>
  started(Where&& where, task<T>&& work, Done&& done)
      : started_task(std::forward<Where>(where)), work_(std::move(work)), done_(std::move(done)) {}

 private:
  std::coroutine_handle<> outermost() noexcept override {
    return work_.begin_on(*this);
  }
  void deliver(task_end how) noexcept override {
    outcome<T> came = how == task_end::ran ? result() : outcome<T>(why_unfinished(how, *this));
    destroy_inner_frames();
    work_ = task<T>();
    done_(std::move(came));
  }
  outcome<T> result() noexcept {
    auto& promise = work_.frame().promise();
    if (promise.error()) return outcome<T>(promise.error());
    if constexpr (std::is_void_v<T>) {
      return outcome<T>(std::in_place);
    } else {
      try {
        return outcome<T>(std::in_place, promise.take());
      } catch (...) {
        return outcome<T>(std::current_exception());
      }
    }
  }

  task<T> work_;
  Done done_;
};

/// Forwards a std::stop_token to a task.
struct PENSTOCK_API stop_forwarder {
  started_task* target;
  void operator()() const noexcept;
};

/// What `block_on` waits with.
class PENSTOCK_API end_signal {
 public:
  /// Throws std::system_error with `would_deadlock` where waiting is not allowed, and std::bad_alloc.
  end_signal();
  ~end_signal();
  void set() noexcept;
  void wait() noexcept;

 private:
  struct state;
  const std::shared_ptr<state> state_;
};

}  // namespace detail

/// Runs a task on `pool` and waits for its end; gives its value or throws what it threw.
/// Waits: the calling thread. Throws std::system_error with `would_deadlock` in a handler, a hook, a task, or posted work
/// (but for a pool that may wait).
/// Cancel: `stop` asks the task to stop; it is waited for all the same.
template <class T>
T block_on(const scheduler_ptr& pool, task<T> work, std::stop_token stop = {}) {
  detail::end_signal ended;
  if (!work) detail::throw_empty_task();
  std::optional<outcome<T>> came;
  auto done = [&](outcome<T>&& result) noexcept {
    came.emplace(std::move(result));
    ended.set();
  };
  auto* running = new detail::started<T, decltype(done)>(pool, std::move(work), std::move(done));
  {
    std::stop_callback forward(stop, detail::stop_forwarder{running});  // first: it may have been asked already
    running->start();
    ended.wait();
  }
  running->release();
  return std::move(*came).get();
}

/// Starts a task on `pool` and tells `done` of its end: `void(penstock::outcome<T>)`, on the task's lane; it must not throw. When the
/// pool ends first, the frames are destroyed and `done` is told `errc::closed`.
/// Throws std::bad_alloc, and std::system_error for an empty task or pool; `done` is not called then.
/// Cancel: `stop`, at the task's next await.
template <class T, class Done>
void start_task(const scheduler_ptr& pool, task<T> work, Done done, std::stop_token stop = {}) {
  if (!work) detail::throw_empty_task();
  struct with_stop {
    Done done;
    std::stop_token token;
    std::optional<std::stop_callback<detail::stop_forwarder>> forward;
  };
  std::unique_ptr<with_stop> tied(new with_stop{std::move(done), std::move(stop), {}});
  with_stop& kept = *tied;
  auto tell = [owned = std::move(tied)](outcome<T>&& came) noexcept {
    owned->forward.reset();
    owned->done(std::move(came));
  };
  auto* running = new detail::started<T, decltype(tell)>(pool, std::move(work), std::move(tell));
  if (kept.token.stop_possible()) kept.forward.emplace(kept.token, detail::stop_forwarder{running});
  running->start();
  running->release();
}

}  // namespace penstock
