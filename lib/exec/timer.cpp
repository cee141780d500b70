// Timers: the instant, and the line of those who wait for it.
// Floor 2, room exec.
#include <penstock/exec/timer.hpp>

#include "base/mutex.hpp"

#include <system_error>

namespace penstock {

namespace detail {

struct timer_state {
  explicit timer_state(scheduler_ptr given) noexcept : pool(std::move(given)) {}

  void link(timer_operation& waiting) noexcept {
    lock_guard lock(m);
    waiting.timer_.node.due = due;
    waiting.linked_ = true;
    waiting.next_ = first;
    waiting.previous_ = nullptr;
    if (first != nullptr) first->previous_ = &waiting;
    first = &waiting;
  }
  /// False: somebody else has taken it out.
  bool unlink(timer_operation& waiting) noexcept {
    lock_guard lock(m);
    if (!waiting.linked_) return false;
    waiting.linked_ = false;
    (waiting.previous_ != nullptr ? waiting.previous_->next_ : first) = waiting.next_;
    if (waiting.next_ != nullptr) waiting.next_->previous_ = waiting.previous_;
    return true;
  }
  std::size_t call_off(const steady_time* set) noexcept {
    timer_operation* all = nullptr;
    {
      lock_guard lock(m);
      if (set != nullptr) due = *set;
      all = std::exchange(first, nullptr);
      for (timer_operation* each = all; each != nullptr; each = each->next_) each->linked_ = false;
    }
    std::size_t told = 0;
    while (all != nullptr) {
      timer_operation* each = std::exchange(all, all->next_);
      if (each->called_off()) ++told;  // it may be gone when this returns
    }
    return told;
  }

  const scheduler_ptr pool;
  mutex m;  // protects what follows; no lock is taken while it is held
  steady_time due PENSTOCK_GUARDED_BY(m) = {};
  timer_operation* first PENSTOCK_GUARDED_BY(m) = nullptr;
};

timer_operation::timer_operation(std::shared_ptr<timer_state> state) noexcept : state_(std::move(state)) {}
timer_operation::~timer_operation() = default;

bool timer_operation::start() noexcept {
  if (!state_) return true;  // of a timer that was moved from: called off
  scheduler& pool = *state_->pool;
  holds_.add();
  state_->link(*this);
  timer_.owner = this;
  timer_.node.fire = [](timer_node& fired) noexcept { reinterpret_cast<timer_slot&>(fired).owner->time_has_come(); };
  holds_.add();
  const errc refused = pool.timers().arm(timer_.node);
  if (refused != errc::none) {
    static_cast<void>(holds_.drop());
    if (holds_.claim()) {
      failed_ = refused;
      if (state_->unlink(*this)) static_cast<void>(holds_.drop());
    }
  } else if (holds_.claimed()) {
    drop_timer();  // called off before it stood
  }
  return holds_.drop();
}

void timer_operation::drop() noexcept {
  if (holds_.drop()) decided(*this);
}

void timer_operation::drop_timer() noexcept {
  if (state_->pool->timers().disarm(timer_.node)) drop();
}

void timer_operation::time_has_come() noexcept {
  if (holds_.claim()) {
    came_ = state_->pool->time().now() >= timer_.node.due;
    if (!came_) failed_ = errc::closed;  // the timers have ended before it
    if (state_->unlink(*this)) drop();   // not the last: the timer's own follows
  }
  drop();
}

bool timer_operation::called_off() noexcept {
  const bool first = holds_.claim();
  drop_timer();
  drop();
  return first;
}

void timer_operation::cancel(cancel_force) noexcept {
  if (!state_ || !holds_.claim()) return;
  cancelled_ = true;
  holds_.add();
  drop_timer();
  if (state_->unlink(*this)) drop();
  drop();
}

bool timer_operation::result() const {
  if (failed_ != errc::none) throw std::system_error(make_error_code(failed_), "timer: no timer could be armed");
  return came_;
}

}  // namespace detail

timer::timer(scheduler_ptr pool) {
  if (!pool)
    throw std::system_error(make_error_code(errc::invalid_argument), "timer: give it a pool, as runtime::pool does");
  state_ = std::make_shared<detail::timer_state>(std::move(pool));
}
timer::timer(scheduler_ptr pool, steady_time due) : timer(std::move(pool)) { expires_at(due); }

timer& timer::operator=(timer&& other) noexcept {
  if (this == &other) return *this;
  cancel();
  state_ = std::move(other.state_);
  return *this;
}

timer::~timer() { cancel(); }

std::size_t timer::expires_at(steady_time due) noexcept { return state_ ? state_->call_off(&due) : 0; }
std::size_t timer::expires_within(std::chrono::nanoseconds wait) noexcept {
  return state_ ? expires_at(deadline_after(state_->pool->time().now(), wait)) : 0;
}
std::size_t timer::cancel() noexcept { return state_ ? state_->call_off(nullptr) : 0; }

steady_time timer::expiry() const noexcept {
  if (!state_) return {};
  lock_guard lock(state_->m);
  return state_->due;
}

scheduler_ptr timer::pool() const noexcept { return state_ ? state_->pool : nullptr; }

}  // namespace penstock
