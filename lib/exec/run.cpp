// Starting a task from code that is none.
// Floor 2, room exec.
#include <penstock/exec/run.hpp>

#include "exec/context.hpp"
#include "exec/pool_lane.hpp"
#include "sync/parker.hpp"

#include <system_error>
#include <utility>

namespace penstock::detail {
namespace {

lane_base& new_lane(const scheduler_ptr& pool) {
  if (!pool) throw std::system_error(make_error_code(errc::invalid_argument), "a task was started without a pool");
  return *new exec::pool_lane(pool);
}

}  // namespace

started_task::started_task(const scheduler_ptr& pool) : task_root(new_lane(pool)) {}

started_task::started_task(lane_base& lane) noexcept : task_root(lane) { lane.keep(); }

started_task::~started_task() { home().let_go(); }

void started_task::start() noexcept {
  retain();
  start_.owner = this;
  start_.run_item = &run_start;
  home().post(start_);
}

void started_task::request_cancel(std::shared_ptr<const cause> why) noexcept {
  if (asked_.exchange(true)) return;
  asked_why_ = std::move(why);
  retain();
  cancel_.owner = this;
  cancel_.run_item = &run_cancel;
  home().post(cancel_);
}

void started_task::request_cancel(cancel_kind kind, const char* who, const char* reason) noexcept {
  request_cancel(make_cause(kind, who, reason, home().pool().time().now()));
}

void started_task::run_start(lane_item& self, lane_item::turn how) {
  started_task& task = *static_cast<own_item&>(self).owner;
  if (how == lane_item::turn::dropped) return task.end(task_end::pool_ended);
  if (task.is_cancelled()) return task.end(task_end::never_began);
  task.next(task.outermost());
  task.pump();
}

void started_task::run_cancel(lane_item& self, lane_item::turn) {
  started_task& task = *static_cast<own_item&>(self).owner;
  if (!task.over_) task.cancel_now(std::move(task.asked_why_));
  task.release();
}

void started_task::finished() noexcept { end(task_end::ran); }
void started_task::abandoned() noexcept { end(task_end::pool_ended); }

void started_task::end(task_end how) noexcept {
  over_ = true;
  deliver(how);
  release();
}

std::exception_ptr why_unfinished(task_end how, const task_root& root) noexcept {
  if (how == task_end::never_began) return std::make_exception_ptr(cancelled(root.cancellation()));
  const errc why = root.home().pool().why_dropped();
  const char* text =
      why == errc::forked ? "the pool has no threads in this process" : "the pool ended before the task did";
  return std::make_exception_ptr(std::system_error(make_error_code(why), text));
}

void stop_forwarder::operator()() const noexcept { target->request_cancel(cancel_kind::requested, "stop token", ""); }

struct end_signal::state {
  sync::atomic<std::uint32_t> ended{0};
};

end_signal::end_signal() : state_(std::make_shared<state>()) {
  if (!exec::may_wait_here())
    throw std::system_error(make_error_code(errc::would_deadlock),
                            "block_on: a handler, a hook, a task or posted work may not wait; co_await the task instead");
}
end_signal::~end_signal() = default;

void end_signal::set() noexcept {
  const std::shared_ptr<state> keep = state_;  // the waiter may go as soon as it sees the word
  keep->ended.store(1);
  sync::unpark_all(&keep->ended);
}

void end_signal::wait() noexcept {
  while (state_->ended.load() == 0) sync::park(state_->ended, 0, no_deadline);
}

}  // namespace penstock::detail
