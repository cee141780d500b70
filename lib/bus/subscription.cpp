// The handle to a subscription, and closing one: by waiting, or by an operation.
// Floor 5, room bus.
#include <penstock/bus/subscription.hpp>

#include "bus/bus_core.hpp"
#include "bus/subscription_core.hpp"
#include "exec/context.hpp"

#include <utility>

namespace penstock {

const char* to_string(close_status status) noexcept {
  switch (status) {
    case close_status::closed: return "closed";
    case close_status::closing: return "closing";
    case close_status::timed_out: return "timed_out";
    case close_status::would_deadlock: return "would_deadlock";
  }
  return "unknown";
}

const char* to_string(subscription_state state) noexcept {
  switch (state) {
    case subscription_state::open: return "open";
    case subscription_state::paused: return "paused";
    case subscription_state::draining: return "draining";
    case subscription_state::stopped: return "stopped";
    case subscription_state::ended: return "ended";
  }
  return "unknown";
}

namespace detail {
namespace {

/// Stops it or begins its drain. True: it has ended.
bool begin_close(subscription_core& core, close_mode mode) noexcept {
  if (mode == close_mode::drain)
    core.begin_drain();
  else
    core.stop();
  // After the stop, so that the call it ends is the last.
  if (mode == close_mode::cancel) core.request_stop(core.bus().make_cause(cancel_kind::requested, core.name, "close(cancel)"));
  return core.try_reap();
}

close_status close_core(subscription_core& core, steady_time deadline, close_mode mode) noexcept {
  if (core.ended() || core.bus().forked()) return close_status::closed;
  if (core.abandoned.load()) return close_status::timed_out;
  if (begin_close(core, mode)) return close_status::closed;
  if (!exec::may_wait_here()) return core.ended() ? close_status::closed : close_status::closing;
  if (core.wait_ended(deadline)) return close_status::closed;
  core.abandoned.store(true);
  core.stop();
  return core.try_reap() ? close_status::closed : close_status::timed_out;
}

}  // namespace

// --- the operation -----------------------------------------------------------------------------------------------------

close_operation::close_operation(subscription_core* core, close_mode mode, std::chrono::nanoseconds limit) noexcept
    : core_(core), mode_(mode), limit_(limit) {
  if (core_ != nullptr) core_->retain();
}

close_operation::~close_operation() {
  if (core_ != nullptr) core_->release();
}

bool close_operation::start() noexcept {
  if (core_ == nullptr || core_->ended() || core_->bus().forked()) return true;
  if (core_->abandoned.load()) {
    status_ = close_status::timed_out;
    return true;
  }
  if (begin_close(*core_, mode_)) return true;
  exec::context* context = exec::current_context();
  bus_core& bus = core_->bus();
  if (context != nullptr && context->kind == exec::context_kind::lane) {
    auto& closer = *static_cast<lane*>(context->lane);
    lock_guard lock(bus.waits.m);
    if (bus.waits.closes_itself(closer, *core_)) {
      status_ = close_status::would_deadlock;
      return true;
    }
    if (close_operation** link = closer.closes_link()) {
      lane_ = &closer;
      next_of_lane_ = *link;
      *link = this;
    }
  }
  holds_.add();
  if (!core_->watch_end(*this)) {
    static_cast<void>(holds_.claim());  // it has ended: closed
    static_cast<void>(holds_.drop());
  } else if (limit_ != std::chrono::nanoseconds::max()) {
    timer_.owner = this;
    timer_.node.due = deadline_after(bus.time().now(), limit_);
    timer_.node.fire = &deadline_passed;
    holds_.add();
    const errc refused = core_->pool->timers().arm(timer_.node);
    if (refused != errc::none) static_cast<void>(holds_.drop());
    // After the runtime's end nothing would tell that the time has passed: it has.
    if (refused == errc::closed && holds_.claim()) {
      give_up_waiting();
      if (core_->unwatch_end(*this)) static_cast<void>(holds_.drop());
    }
    if (holds_.claimed()) drop_timer();  // decided before it was armed
  }
  if (!holds_.drop()) return false;
  leave_lane();
  return true;
}

void close_operation::leave_lane() noexcept {
  if (lane_ == nullptr) return;
  bus_core& bus = core_->bus();
  lock_guard lock(bus.waits.m);
  close_operation** link = static_cast<lane*>(std::exchange(lane_, nullptr))->closes_link();
  while (*link != this) link = &(*link)->next_of_lane_;
  *link = next_of_lane_;
}

void close_operation::drop() noexcept {
  if (!holds_.drop()) return;
  leave_lane();
  decided(*this);
}

void close_operation::drop_timer() noexcept {
  if (limit_ != std::chrono::nanoseconds::max() && core_->pool->timers().disarm(timer_.node)) drop();
}

// Off the list of watchers already, by whoever calls this.
void close_operation::has_ended() noexcept {
  if (holds_.claim()) status_ = close_status::closed;
  drop_timer();
  drop();
}

void close_operation::deadline_passed(timer_node& fired) noexcept {
  close_operation& self = *reinterpret_cast<timer_slot&>(fired).owner;
  if (self.holds_.claim()) {
    self.give_up_waiting();
    if (self.core_->unwatch_end(self)) self.drop();  // not the last: the timer's own follows
  }
  self.drop();
}

void close_operation::give_up_waiting() noexcept {
  core_->abandoned.store(true);
  core_->stop();
  status_ = core_->ended() ? close_status::closed : close_status::timed_out;
}

void close_operation::cancel(cancel_force) noexcept {
  if (core_ == nullptr || core_->bus().forked() || !holds_.claim()) return;
  cancelled_ = true;
  status_ = close_status::closing;
  holds_.add();
  drop_timer();
  if (core_->unwatch_end(*this)) drop();
  drop();
}

}  // namespace detail

subscription::subscription(subscription&& other) noexcept : core_(std::exchange(other.core_, nullptr)) {}

subscription& subscription::operator=(subscription&& other) noexcept {
  if (this != &other) {
    subscription ended(std::move(*this));
    core_ = std::exchange(other.core_, nullptr);
  }
  return *this;
}

subscription::~subscription() {
  if (core_ == nullptr) return;
  if (!core_->bus().forked()) {
    if (exec::may_wait_here())
      (void)close();
    else
      stop();
  }
  core_->release();
}

void subscription::stop() noexcept {
  if (core_ == nullptr || core_->ended() || core_->bus().forked()) return;
  core_->stop();
  core_->reap_later();
}

close_status subscription::close(close_mode mode) noexcept { return close_until(no_deadline, mode); }

close_status subscription::close_until(steady_time deadline, close_mode mode) noexcept {
  if (core_ == nullptr) return close_status::closed;
  return detail::close_core(*core_, deadline, mode);
}

close_status subscription::close_within(std::chrono::nanoseconds wait, close_mode mode) noexcept {
  if (core_ == nullptr) return close_status::closed;
  return close_until(deadline_after(core_->bus().time().now(), wait), mode);
}

scheduler_ptr subscription::pool() const noexcept { return core_ != nullptr ? core_->pool : nullptr; }

void subscription::resume() noexcept {
  if (core_ != nullptr && !core_->bus().forked()) core_->resume();
}

subscription_state subscription::state() const noexcept {
  return core_ != nullptr ? core_->state() : subscription_state::ended;
}

void subscription::release() noexcept {
  if (core_ != nullptr) std::exchange(core_, nullptr)->release();
}

ledger subscription::ledger() const {
  return core_ != nullptr && !core_->bus().forked() ? core_->ledger() : penstock::ledger{};
}
std::string subscription::name() const { return core_ != nullptr ? core_->name : std::string(); }
std::size_t subscription::capacity() const noexcept { return core_ != nullptr ? core_->channel.capacity() : 0; }

}  // namespace penstock
