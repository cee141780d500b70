// What a shutdown does next.
// Floor 7, room runtime.
#include "runtime/shutdown_machine.hpp"

#include <algorithm>

namespace penstock {

const char* to_string(shutdown_phase phase) noexcept {
  switch (phase) {
    case shutdown_phase::open: return "open";
    case shutdown_phase::stopping_tasks: return "stopping tasks";
    case shutdown_phase::draining: return "draining";
    case shutdown_phase::closing: return "closing";
    case shutdown_phase::cancelling: return "cancelling";
    case shutdown_phase::stopping_kept: return "stopping kept tasks";
    case shutdown_phase::done: return "done";
  }
  return "unknown";
}

steady_time shutdown_machine::share(int tenths) const noexcept {
  if (deadline_ == no_deadline) return no_deadline;
  return began_ + (deadline_ - began_) / 10 * tenths;
}

steady_time shutdown_machine::phase_deadline() const noexcept {
  if (forced_) return steady_time::min();
  switch (phase_) {
    case shutdown_phase::open:
    case shutdown_phase::done: break;
    case shutdown_phase::stopping_tasks: return share(3);
    case shutdown_phase::draining: return drain_until();
    case shutdown_phase::closing:
    case shutdown_phase::cancelling: return keeps_tasks_ ? share(9) : deadline_;
    case shutdown_phase::stopping_kept: return deadline_;
  }
  return no_deadline;
}

shutdown_actions shutdown_machine::enter(shutdown_phase next) noexcept {
  shutdown_actions actions;
  phase_ = next;
  switch (next) {
    case shutdown_phase::open: break;
    case shutdown_phase::stopping_tasks: actions.ask_first_tasks = true; break;
    case shutdown_phase::draining: actions.close_intake = true; break;
    case shutdown_phase::closing:
      actions.close_bus = true;
      actions.end_drained = true;
      break;
    case shutdown_phase::cancelling:
      actions.close_bus = true;
      actions.cancel_calls = true;
      break;
    case shutdown_phase::stopping_kept: actions.ask_kept_tasks = true; break;
    case shutdown_phase::done: actions.finish = true; break;
  }
  return actions;
}

shutdown_actions shutdown_machine::begin(steady_time now, steady_time deadline, bool keeps_tasks) noexcept {
  if (begun()) return {};
  keeps_tasks_ = keeps_tasks;
  began_ = now;
  deadline_ = std::max(now, deadline);
  return enter(shutdown_phase::stopping_tasks);
}

shutdown_actions shutdown_machine::on(shutdown_event event, steady_time now) noexcept {
  if (event == shutdown_event::begin) return begin(now, no_deadline);
  if (event == shutdown_event::force) {
    if (begun() && phase_ != shutdown_phase::done) {
      forced_ = true;
      deadline_ = std::min(deadline_, now);
    }
    return {};
  }
  const bool holds = event == shutdown_event::condition_holds;
  switch (phase_) {
    case shutdown_phase::open:
    case shutdown_phase::done: break;
    case shutdown_phase::stopping_tasks: return enter(shutdown_phase::draining);
    case shutdown_phase::draining: return enter(holds ? shutdown_phase::closing : shutdown_phase::cancelling);
    case shutdown_phase::closing:
      if (!holds) return enter(shutdown_phase::cancelling);
      drained_ = true;
      return enter(shutdown_phase::stopping_kept);
    case shutdown_phase::cancelling: {
      shutdown_actions actions = enter(shutdown_phase::stopping_kept);
      actions.abandon_calls = !holds;
      return actions;
    }
    case shutdown_phase::stopping_kept: return enter(shutdown_phase::done);
  }
  return {};
}

}  // namespace penstock
