// Waiting until a bus is idle: with a thread, or with an operation.
// Floor 5, room bus.
#include "bus/bus_core.hpp"
#include "exec/context.hpp"

#include <utility>

namespace penstock::detail {

void bus_core::wake_waiters() noexcept {
  try {
    drain_moved();
    for (const auto& each : subscriptions()) each->wake_waiters();
  } catch (...) {  // no memory for the list: they look at their deadlines
  }
}

// Two rounds in which everybody was at rest and nobody had been offered anything in between: then there was an instant
// at which all were at rest.
bool bus_core::wait_idle(steady_time deadline) {
  if (forked()) return false;
  const bool may_wait = exec::may_wait_here();
  std::uint64_t before = 0;
  for (bool again = false;; again = true) {
    std::uint64_t offered = 0;
    bool waited = false;
    for (const auto& each : subscriptions()) {
      if (!each->at_rest()) {
        waited = true;
        if (!may_wait || !each->wait_quiescent(deadline)) return false;
      }
      offered += each->ledger().offered;
    }
    if (again && !waited && offered == before) return true;
    before = offered;
    if (time().now() >= deadline && waited) return false;
  }
}

bool bus_core::idle_now() noexcept {
  if (forked()) return false;
  try {
    std::uint64_t offered[2] = {};
    for (std::uint64_t& sum : offered) {
      for (const auto& each : subscriptions()) {
        if (!each->at_rest()) return false;
        sum += each->ledger().offered;
      }
    }
    return offered[0] == offered[1];
  } catch (...) {  // no memory for the list
    return false;
  }
}

void bus_core::watch_idle(idle_operation& watcher) noexcept {
  lock_guard lock(idle_m_);
  watcher.next_ = idle_watchers_;
  idle_watchers_ = &watcher;
  idle_watchers_count_.fetch_add(1);
}

bool bus_core::unwatch_idle(idle_operation& watcher) noexcept {
  lock_guard lock(idle_m_);
  for (idle_operation** link = &idle_watchers_; *link != nullptr; link = &(*link)->next_) {
    if (*link != &watcher) continue;
    *link = watcher.next_;
    idle_watchers_count_.fetch_sub(1);
    return true;
  }
  return false;
}

void bus_core::tell_if_idle() noexcept {
  if (!idle_now()) return;
  idle_operation* watchers = nullptr;
  {
    lock_guard lock(idle_m_);
    watchers = std::exchange(idle_watchers_, nullptr);
    for (const idle_operation* each = watchers; each != nullptr; each = each->next_) idle_watchers_count_.fetch_sub(1);
  }
  while (watchers != nullptr) {
    idle_operation* following = watchers->next_;
    watchers->is_idle();  // it may be gone when this returns
    watchers = following;
  }
}

// --- the operation
// -----------------------------------------------------------------------------------------------------

idle_operation::idle_operation(bus_core* core, std::chrono::nanoseconds limit) noexcept : core_(core), limit_(limit) {
  core_->retain();
}
idle_operation::~idle_operation() { core_->release(); }

bool idle_operation::start() noexcept {
  const exec::context* context = exec::current_context();
  if (core_->forked() || (context != nullptr && context->kind == exec::context_kind::lane)) return true;
  if (core_->idle_now()) {
    idle_ = true;
    return true;
  }
  holds_.add();
  core_->watch_idle(*this);
  if (limit_ != std::chrono::nanoseconds::max()) {
    timer_.owner = this;
    timer_.node.due = deadline_after(core_->time().now(), limit_);
    timer_.node.fire = &deadline_passed;
    holds_.add();
    const errc refused = core_->timers().arm(timer_.node);
    if (refused != errc::none) static_cast<void>(holds_.drop());
    // After the runtime's end nothing would tell that the time has passed: it gives up now.
    if (refused == errc::closed && holds_.claim()) {
      idle_ = core_->idle_now();
      if (core_->unwatch_idle(*this)) static_cast<void>(holds_.drop());
    }
    if (holds_.claimed()) drop_timer();
  }
  core_->look_whether_idle();  // it may have become so before the watch stood
  return holds_.drop();
}

void idle_operation::drop() noexcept {
  if (holds_.drop()) decided(*this);
}

void idle_operation::drop_timer() noexcept {
  if (limit_ != std::chrono::nanoseconds::max() && core_->timers().disarm(timer_.node)) drop();
}

void idle_operation::is_idle() noexcept {
  if (holds_.claim()) idle_ = true;
  drop_timer();
  drop();
}

void idle_operation::deadline_passed(timer_node& fired) noexcept {
  idle_operation& self = *reinterpret_cast<timer_slot&>(fired).owner;
  if (self.holds_.claim() && self.core_->unwatch_idle(self)) self.drop();  // not the last: the timer's own follows
  self.drop();
}

void idle_operation::cancel(cancel_force) noexcept {
  if (core_->forked() || !holds_.claim()) return;
  cancelled_ = true;
  holds_.add();
  drop_timer();
  if (core_->unwatch_idle(*this)) drop();
  drop();
}

}  // namespace penstock::detail
