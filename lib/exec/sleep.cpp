// Waiting for a time, in a task.
// Floor 2, room exec.
#include <penstock/exec/sleep.hpp>

#include <system_error>

namespace penstock {

bool sleep_operation::begin(detail::task_root& root, std::coroutine_handle<> frame) noexcept {
  cancelled_ = !suspend(root, frame);
  if (cancelled_) return false;
  if (kind_ == until::next_turn) {
    wake_after_turn();
    return true;
  }
  scheduler& pool = root.home().pool();
  if (kind_ == until::a_while) timer_.node.due = deadline_after(pool.time().now(), wait_);
  timer_.owner = this;
  timer_.node.fire = [](timer_node& fired) noexcept { reinterpret_cast<timer_slot&>(fired).owner->wake(); };
  armed_ = true;
  failed_ = pool.timers().arm(timer_.node);  // from here on it may have fired
  if (failed_ == errc::none) return true;
  unsuspend();
  return false;
}

void sleep_operation::cancel() noexcept {
  // Not disarmed: it has fired, or is about to, and the task goes on by that.
  if (!armed_ || !root().home().pool().timers().disarm(timer_.node)) return;
  cancelled_ = true;
  wake();
}

void sleep_operation::await_resume() const {
  if (cancelled_) root().throw_cancelled();
  if (failed_ != errc::none) throw std::system_error(make_error_code(failed_), "sleep: no timer could be armed");
}

}  // namespace penstock
