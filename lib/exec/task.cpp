// The pump of a task, and how its frames wait and are cancelled.
// Floor 2, room exec.
#include <penstock/exec/task.hpp>

#include "base/forced_unwind.hpp"

#include <system_error>
#include <utility>

namespace penstock {

const char* to_string(cancel_kind kind) noexcept {
  switch (kind) {
    case cancel_kind::requested: return "requested";
    case cancel_kind::timed_out: return "timed_out";
    case cancel_kind::shutdown: return "shutdown";
    case cancel_kind::closed: return "closed";
  }
  return "unknown";
}

std::shared_ptr<const cause> detail::make_cause(cancel_kind kind, std::string_view who, std::string_view reason,
                                                steady_time at) noexcept {
  try {
    return std::make_shared<cause>(kind, std::string(who), std::string(reason), at);
  } catch (...) {
    static const cause without_memory(cancel_kind::requested, "", "", steady_time{});
    return std::shared_ptr<const cause>(std::shared_ptr<void>(), &without_memory);
  }
}

cancelled::cancelled(std::shared_ptr<const cause> why) noexcept : why_(std::move(why)) {}
cancelled::cancelled(const cancelled&) noexcept = default;
cancelled& cancelled::operator=(const cancelled&) noexcept = default;
cancelled::~cancelled() = default;
const cause& cancelled::why() const noexcept { return *why_; }

namespace detail {

PENSTOCK_CATCHES_FORCED_UNWIND
std::exception_ptr caught_in_frame() {
  try {
    throw;
  } catch (const forced_unwind&) {
    throw;
  } catch (...) {
    return std::current_exception();
  }
}

void throw_empty_task() {
  throw std::system_error(make_error_code(errc::invalid_argument),
                          "an empty task was awaited: it was moved from, or awaited before");
}

void throw_awaits_itself() {
  throw std::system_error(make_error_code(errc::would_deadlock),
                          "a task was awaited that is running already, and so waits for the one that awaits it");
}

// --- task_root ---------------------------------------------------------------------------------------------------------

void task_root::pump() {
  while (next_) std::exchange(next_, nullptr).resume();
  if (std::exchange(ended_, false)) finished();
}

void task_root::cancel_now(std::shared_ptr<const cause> why) noexcept {
  if (cancellation_) return;
  cancellation_ = std::move(why);
  if (waiting_ != nullptr) waiting_->cancel();
}

void task_root::throw_cancelled() const { throw cancelled(cancellation_); }

void task_root::destroy_inner_frames() noexcept {
  waiting_ = nullptr;
  next_ = nullptr;
  while (innermost_ != nullptr && innermost_->caller() != nullptr) {
    task_promise_base* const frame = innermost_;
    innermost_ = frame->caller();
    std::coroutine_handle<>::from_address(frame->disown()).destroy();
  }
}

void task_root::reset() noexcept {
  innermost_ = nullptr;
  next_ = nullptr;
  waiting_ = nullptr;
  ended_ = false;
  cancellation_.reset();
}

// --- task_waiter -------------------------------------------------------------------------------------------------------

bool task_waiter::suspend(task_root& root, std::coroutine_handle<> frame) noexcept {
  root_ = &root;
  frame_ = frame;
  if (root.is_cancelled()) return false;
  run_item = &resume;
  root.waits_for(this);
  return true;
}

void task_waiter::unsuspend() noexcept { root_->waits_for(nullptr); }

void task_waiter::wake() noexcept { root_->home().post(*this); }

void task_waiter::wake_after_turn() noexcept {
  after_turn = true;
  wake();
}

void task_waiter::resume(lane_item& self, turn how) {
  auto& waiter = static_cast<task_waiter&>(self);
  task_root& root = *waiter.root_;
  root.waits_for(nullptr);
  if (how == turn::dropped) return root.abandoned();  // the waiter dies with its frame
  root.begin_turn();
  root.next(waiter.frame_);
  root.pump();
}

}  // namespace detail
}  // namespace penstock
