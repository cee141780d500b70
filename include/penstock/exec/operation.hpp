// What every waiting operation of the library is underneath, and how a task awaits one.
// Floor 2, room exec.
#pragma once

#include <penstock/base/export.hpp>
#include <penstock/exec/task.hpp>

#include <atomic>
#include <coroutine>
#include <cstdint>
#include <utility>

namespace penstock::detail {

/// How much a cancellation may leave behind (the words are Asio's).
enum class cancel_force : unsigned char {
  total,     ///< only if it then has had no effect at all
  partial,   ///< what it has done stands; the rest is not done
  terminal,  ///< as partial
};

/// One asynchronous operation: compiled, intrusive, begun once and decided once. A derived class has
/// `bool start()` (true: it is decided already, `decided` is not called), `void cancel(cancel_force)`, `bool gave_up()`
/// (it was cancelled and nothing came of it) and `result()`.
class operation {
 public:
  operation() noexcept = default;
  operation(const operation&) = delete;
  operation& operator=(const operation&) = delete;
  /// Called once, on any thread, with no lock held; the operation may be gone when it returns.
  void (*decided)(operation& self) noexcept = nullptr;

 protected:
  ~operation() = default;
};

/// How an operation that hangs on several things (an end, a timer, a cancellation) is decided once and lives until the last of
/// them has let go. One hold for `start`, one for each thing it hangs on.
class operation_holds {
 public:
  /// True: the caller decides what came of it.
  bool claim() noexcept { return !claimed_.exchange(true); }
  bool claimed() const noexcept { return claimed_.load(); }
  void add() noexcept { holds_.fetch_add(1); }
  /// True: that was the last hold.
  bool drop() noexcept { return holds_.fetch_sub(1) == 1; }

 private:
  std::atomic<std::uint32_t> holds_{1};
  std::atomic<bool> claimed_{false};
};

/// Awaits one operation in a task. Lives in the awaiting frame.
template <class Operation>
class [[nodiscard]] operation_awaiter final : public task_waiter, public task_awaitable {
 public:
  template <class... Args>
  explicit operation_awaiter(Args&&... args) : operation_(std::forward<Args>(args)...) {}

  bool await_ready() const noexcept { return false; }
  template <class Promise>
  bool await_suspend(std::coroutine_handle<Promise> frame) noexcept {
    task_root& awaiting = frame.promise().root();
    refused_ = !suspend(awaiting, frame);
    if (refused_) return false;
    operation_.owner = this;
    operation_.decided = [](operation& self) noexcept { static_cast<bound&>(self).owner->wake(); };
    if (!operation_.start()) return true;
    if (!awaiting.may_go_on()) {
      wake_after_turn();  // decided, and others go first
      return true;
    }
    unsuspend();
    return false;
  }
  decltype(auto) await_resume() {
    if (refused_ || operation_.gave_up()) root().throw_cancelled();
    return operation_.result();
  }
  void cancel() noexcept override { operation_.cancel(cancel_force::terminal); }

 private:
  struct bound final : Operation {
    using Operation::Operation;
    operation_awaiter* owner = nullptr;
  };
  bound operation_;
  bool refused_ = false;
};

}  // namespace penstock::detail
