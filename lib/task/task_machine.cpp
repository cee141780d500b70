// What a background task does next.
// Floor 4, room task.
#include "task/task_machine.hpp"

namespace penstock::detail {

task_machine::task_machine(const std::optional<restart_policy>& policy) : policy_(policy) {
  if (policy_) last_failures_.resize(policy_->attempts());
}

void task_machine::end(task_fate how, task_actions& actions) noexcept {
  actions.disarm = phase_ == task_phase::pausing;
  phase_ = task_phase::ended;
  fate_ = how;
  actions.end = true;
}

void task_machine::body_failed(steady_time now, std::uint64_t random, task_actions& actions) noexcept {
  actions.report = true;
  const std::uint64_t before = failures_++;
  if (!policy_ || stop_requested_) return end(task_fate::failed, actions);
  // How many of the last failures lie within the window, this one among them.
  const std::size_t most = last_failures_.size();
  unsigned within = 1;
  for (std::size_t back = 1; back <= most && back <= before; ++back) {
    const steady_time earlier = last_failures_[static_cast<std::size_t>((before - back) % most)];
    if (now - earlier > policy_->within()) break;
    ++within;
  }
  last_failures_[static_cast<std::size_t>(before % most)] = now;
  if (within > most) {
    actions.escalate = policy_->escalates();
    return end(task_fate::failed, actions);
  }
  phase_ = task_phase::pausing;
  actions.pause = true;
  actions.pause_for = policy_->pauses().delay(within, random);
}

task_actions task_machine::on(task_event event, steady_time now, std::uint64_t random) noexcept {
  task_actions actions;
  if (phase_ == task_phase::ended) return actions;
  switch (event) {
    case task_event::begun:
      if (phase_ == task_phase::starting) {
        phase_ = task_phase::running;
        ++runs_;
      }
      break;
    case task_event::completed: end(task_fate::completed, actions); break;
    case task_event::cancelled: end(task_fate::cancelled, actions); break;
    case task_event::dropped: end(task_fate::dropped, actions); break;
    case task_event::failed: body_failed(now, random, actions); break;
    case task_event::stop_requested:
      if (stop_requested_) break;
      stop_requested_ = true;
      if (phase_ == task_phase::pausing)
        end(task_fate::cancelled, actions);
      else
        actions.ask = true;
      break;
    case task_event::pause_over:
      if (phase_ != task_phase::pausing) break;
      phase_ = task_phase::starting;
      actions.start = true;
      break;
  }
  return actions;
}

}  // namespace penstock::detail
