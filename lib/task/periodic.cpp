// Periodic tasks.
// Floor 4, room task.
#include "task/periodic.hpp"

#include "base/forced_unwind.hpp"
#include "exec/context.hpp"
#include "task/registry_core.hpp"

#include <penstock/exec/sleep.hpp>

#include <system_error>
#include <utility>

namespace penstock::detail {

next_tick after_tick(steady_time due, steady_time now, std::chrono::nanoseconds period, missed_ticks missed) noexcept {
  switch (missed) {
    case missed_ticks::burst: return {deadline_after(due, period), 0};
    case missed_ticks::delay: return {deadline_after(now, period), 0};
    case missed_ticks::skip: break;
  }
  const auto late = now > due ? (now - due) / period : 0;
  return {deadline_after(due + late * period, period), static_cast<std::uint64_t>(late)};
}

namespace {

/// Runs the function of one tick on its pool, and goes on here when it has returned. Asked to stop, it tells the function,
/// and waits for its end all the same.
class one_call final : public task_waiter, public task_awaitable, private runnable {
 public:
  explicit one_call(periodic& plan) noexcept : plan_(&plan) {}
  bool await_ready() const noexcept { return false; }
  template <class Promise>
  bool await_suspend(std::coroutine_handle<Promise> frame) noexcept {
    refused_ = !suspend(frame.promise().root(), frame);
    if (refused_) return false;
    plan_->entry->tick_calls(this);
    const scheduler_ptr where = plan_->where;
    where->schedule(*this);
    return true;
  }
  void await_resume() const {
    if (refused_) root().throw_cancelled();
    if (error_) std::rethrow_exception(error_);
  }
  void cancel() noexcept override { plan_->stop.request_stop(); }

 private:
  PENSTOCK_CATCHES_FORCED_UNWIND
  void run(unsigned) override {
    exec::context working{exec::context_kind::worker};
    if (plan_->where->may_wait())
      working = {.kind = exec::context_kind::awaited, .lane = &plan_->entry->core(), .task = plan_->entry};
    working.in_hand = this;
    exec::context_scope scope(&working);
    try {
      plan_->calls(plan_->stop.get_token());
    } catch (const forced_unwind&) {
      error_ = std::make_exception_ptr(std::system_error(make_error_code(errc::closed), "its thread was cancelled"));
      returned();
      throw;
    } catch (...) {
      error_ = std::current_exception();
    }
    returned();
  }
  void dropped() noexcept override {
    error_ = std::make_exception_ptr(std::system_error(make_error_code(plan_->where->why_dropped()), "its pool has ended"));
    wake();
  }

  void returned() noexcept {
    plan_->entry->tick_calls(nullptr);
    wake();
  }

  periodic* const plan_;
  std::exception_ptr error_;
  bool refused_ = false;
};

/// Throws `cancelled` when a request to stop is in force; waits for nothing.
class go_on_unless_stopped final : public task_awaitable {
 public:
  bool await_ready() const noexcept { return false; }
  template <class Promise>
  bool await_suspend(std::coroutine_handle<Promise> frame) noexcept {
    root_ = &frame.promise().root();
    return false;
  }
  void await_resume() const {
    if (root_->is_cancelled()) root_->throw_cancelled();
  }

 private:
  task_root* root_ = nullptr;
};

}  // namespace

PENSTOCK_CATCHES_FORCED_UNWIND
task<void> tick_for_ever(std::shared_ptr<periodic> plan) {
  const clock& time = plan->entry->core().time();
  steady_time due = deadline_after(time.now(), plan->period);
  for (;;) {
    co_await sleep_until(due);
    co_await go_on_unless_stopped();  // else a tick that never begins is counted
    plan->entry->begin_tick();
    try {
      if (plan->makes) {
        task<void> one = plan->makes();
        co_await std::move(one);
      } else {
        co_await one_call(*plan);
      }
    } catch (const forced_unwind&) {
      throw;
    } catch (const cancelled&) {
      if (plan->entry->stop_requested()) throw;
      plan->entry->tick_failed();  // somebody else's, that the tick let through
    } catch (...) {
      plan->entry->tick_failed();
    }
    plan->entry->end_tick();
    const next_tick next = after_tick(due, time.now(), plan->period, plan->missed);
    if (next.missed > 0) plan->entry->count_missed(next.missed);
    due = next.due;
  }
}

}  // namespace penstock::detail
