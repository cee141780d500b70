// The list of background tasks, their account, and the end of all.
// Floor 4, room task.
#include "task/registry_core.hpp"

#include "exec/context.hpp"
#include "sync/parker.hpp"

#include <new>
#include <utility>

namespace penstock::detail {

registry_core::registry_core(std::shared_ptr<execution_environment> environment, scheduler_ptr functions,
                             scheduler_ptr coroutines, registry_hooks hooks)
    : environment_(std::move(environment)),
      functions_(std::move(functions)),
      coroutines_(std::move(coroutines)),
      hooks_(std::move(hooks)) {}

registry_core::~registry_core() = default;

errc registry_core::admit(task_entry& made) noexcept {
  if (forked()) return errc::forked;
  const std::string& owner_name = made.owner();
  const bool elsewhere = runs_elsewhere(made);
  try {
    lock_guard lock(m_);
    if (refusing_all_ || (!owner_name.empty() && refused_.contains(owner_name))) {
      ++counts_.refused;
      return errc::closed;
    }
    const std::uint64_t id = next_id_;
    const auto listed = tasks_.emplace(id, &made).first;
    try {
      ++live_of_[owner_name];
    } catch (...) {
      tasks_.erase(listed);
      throw;
    }
    ++next_id_;
    ++live_of_order_[static_cast<std::size_t>(made.order())];
    ++counts_.spawned;
    ++counts_.running;
    made.admitted(id);
    if (elsewhere) elsewhere_.fetch_add(1);
  } catch (const std::bad_alloc&) {
    return errc::not_enough_memory;
  }
  // As a subscription does that runs there: one of the runtime's own pools wakes the watchdog.
  if (elsewhere) static_cast<void>(functions_->post([] {}));
  return errc::none;
}

void registry_core::ended(task_entry& entry, task_fate how) noexcept {
  const bool elsewhere = runs_elsewhere(entry);
  lock_guard lock(m_);
  tasks_.erase(entry.id());
  if (elsewhere) elsewhere_.fetch_sub(1);
  const auto owner = live_of_.find(entry.owner());
  if (owner != live_of_.end() && --owner->second == 0) live_of_.erase(owner);
  --live_of_order_[static_cast<std::size_t>(entry.order())];
  --counts_.running;
  switch (how) {
    case task_fate::none: break;
    case task_fate::completed: ++counts_.completed; break;
    case task_fate::failed: ++counts_.failed; break;
    case task_fate::cancelled: ++counts_.cancelled; break;
    case task_fate::dropped: ++counts_.closed; break;
  }
  entry.mark_ended();  // here, so that whoever finds no task left finds each of them ended
}

bool registry_core::runs_elsewhere(const task_entry& entry) const noexcept {
  return entry.pool()->parts() != functions_->parts();
}

bool registry_core::any_live_locked(std::string_view owner) const noexcept {
  return owner.empty() ? !tasks_.empty() : live_of_.contains(owner);
}

void registry_core::refuse(std::string_view owner) {
  lock_guard lock(m_);
  if (owner.empty())
    refusing_all_ = true;
  else
    refused_.emplace(owner);
}

registry_core::entries registry_core::live(const task_scope& scope) const {
  entries found;
  lock_guard lock(m_);
  for (const auto& [id, each] : tasks_) {
    if (!scope.owner.empty() && each->owner() != scope.owner) continue;
    if (scope.order && each->order() != *scope.order) continue;
    found.push_back(ref_ptr<task_entry>::share(each));
  }
  return found;
}

void registry_core::ask(const entries& tasks, const std::shared_ptr<const cause>& why) noexcept {
  for (const auto& each : tasks) static_cast<void>(each->request_stop(why));
}

void registry_core::ask_all(std::string_view owner, const std::shared_ptr<const cause>& why) noexcept {
  std::uint64_t last = 0;
  std::uint64_t end = 0;
  for (;;) {
    ref_ptr<task_entry> found;
    {
      lock_guard lock(m_);
      if (end == 0) end = next_id_;
      for (auto each = tasks_.upper_bound(last); each != tasks_.end() && each->first < end && !found; ++each)
        if (owner.empty() || each->second->owner() == owner) found = ref_ptr<task_entry>::share(each->second);
    }
    if (!found) return;
    last = found->id();
    static_cast<void>(found->request_stop(why));
  }
}

const task_entry* registry_core::task_here() noexcept {
  const exec::context* current = exec::current_context();
  return current != nullptr ? static_cast<const task_entry*>(current->task) : nullptr;
}

registry_core::wait_edge::wait_edge(const task_entry& whom, steady_time deadline) noexcept
    : who_(task_here()), whom_(&whom) {
  if (who_ == nullptr || deadline != no_deadline) return;
  registry_core& core = who_->core();
  lock_guard lock(core.m_);
  const task_entry* at = whom_;
  for (const wait_edge* each = core.edges_; each != nullptr && at != who_;) {
    const bool goes_on = each->who_ == at;
    if (goes_on) at = each->whom_;
    each = goes_on ? core.edges_ : each->next_;
  }
  closes_a_cycle_ = at == who_;
  if (closes_a_cycle_) return;
  core_ = &core;
  next_ = std::exchange(core.edges_, this);
}

registry_core::wait_edge::~wait_edge() {
  if (core_ == nullptr) return;
  lock_guard lock(core_->m_);
  wait_edge** link = &core_->edges_;
  while (*link != this) link = &(*link)->next_;
  *link = next_;
}

bool registry_core::wait_ended(const entries& tasks, steady_time deadline) {
  if (!exec::may_wait_here()) return false;
  const task_entry* here = task_here();
  for (const auto& each : tasks)
    if (each.get() == here) return false;
  bool all = true;
  for (const auto& each : tasks)
    if (each->wait_until(deadline) == task_status::running) all = false;
  return all;
}

std::size_t registry_core::live_count(stop_order order) const noexcept {
  lock_guard lock(m_);
  return live_of_order_[static_cast<std::size_t>(order)];
}

bool registry_core::wait_none(stop_order order, steady_time deadline, const std::atomic<bool>& give_up) noexcept {
  for (;;) {
    const std::uint32_t seen = changes_.load();
    if (live_count(order) == 0) return true;
    if (give_up.load() || !exec::may_wait_here()) return false;
    if (!sync::park(changes_, seen, deadline)) return live_count(order) == 0;
  }
}

void registry_core::wake_waiters() noexcept {
  changes_.fetch_add(1);
  sync::unpark_all(&changes_);
}

void registry_core::watch(const std::set<const runnable*>& asked_for, std::vector<watched_call>& calls) const {
  for (const auto& each : live({})) each->watch(asked_for, calls);
}

task_report registry_core::report(const entries& tasks, steady_time began) const {
  task_report made;
  for (const auto& each : tasks) made.tasks.push_back(each->info());
  made.counts = counts();
  made.elapsed = time().now() - began;
  return made;
}

task_counts registry_core::counts() const noexcept {
  if (forked()) return {};
  lock_guard lock(m_);
  return counts_;
}

std::shared_ptr<const cause> registry_core::make_cause(cancel_kind kind, std::string_view who,
                                                       std::string_view reason) noexcept {
  return detail::make_cause(kind, who, reason, time().now());
}

void registry_core::report_failure(const failure& record) noexcept {
  exec::context hook{exec::context_kind::hook};
  exec::context_scope scope(&hook);
  try {
    if (hooks_.on_failure) hooks_.on_failure(record);
  } catch (...) {
    const exception_record thrown = describe_current_exception();
    tell_hook_threw(hooks_.hook_threw, {.hook = "on_failure", .task = record.task, .thrown = thrown});
  }
}

void registry_core::escalate(const failure& record) noexcept {
  exec::context hook{exec::context_kind::hook};
  exec::context_scope scope(&hook);
  try {
    if (hooks_.on_escalate) hooks_.on_escalate(record);
  } catch (...) {
    const exception_record thrown = describe_current_exception();
    tell_hook_threw(hooks_.hook_threw, {.hook = "on_escalate", .task = record.task, .thrown = thrown});
  }
}

// --- who waits for the last one ----------------------------------------------------------------------------------------

bool registry_core::watch(registry_close_operation& watcher, std::string_view owner) noexcept {
  lock_guard lock(m_);
  if (!any_live_locked(owner)) return false;
  watcher.next_ = watchers_;
  watchers_ = &watcher;
  return true;
}

bool registry_core::unwatch(registry_close_operation& watcher) noexcept {
  lock_guard lock(m_);
  for (registry_close_operation** link = &watchers_; *link != nullptr; link = &(*link)->next_) {
    if (*link != &watcher) continue;
    *link = watcher.next_;
    return true;
  }
  return false;
}

void registry_core::tell_if_empty() noexcept {
  wake_waiters();
  registry_close_operation* told = nullptr;
  {
    lock_guard lock(m_);
    for (registry_close_operation** link = &watchers_; *link != nullptr;) {
      registry_close_operation* each = *link;
      if (any_live_locked(each->owner_)) {
        link = &each->next_;
        continue;
      }
      *link = each->next_;
      each->next_ = told;
      told = each;
    }
  }
  while (told != nullptr) {
    registry_close_operation* each = std::exchange(told, told->next_);
    each->all_ended();  // it may be gone when this returns
  }
}

// --- the operation -----------------------------------------------------------------------------------------------------

struct registry_close_operation::session {
  steady_time began{};
  registry_core::entries tasks;
};

registry_close_operation::registry_close_operation(registry_core* core, std::string_view owner,
                                                   std::chrono::nanoseconds limit)
    : core_(core), owner_(owner), limit_(limit), session_(std::make_unique<session>()) {
  if (core_ != nullptr) core_->retain();
}
registry_close_operation::~registry_close_operation() {
  session_.reset();
  if (core_ != nullptr) core_->release();
}

bool registry_close_operation::start() noexcept {
  if (core_ == nullptr || core_->forked()) return true;
  session_->began = core_->time().now();
  try {
    core_->refuse(owner_);
    session_->tasks = core_->live({owner_, {}});
  } catch (const std::bad_alloc&) {
    failed_ = errc::not_enough_memory;
    return true;
  }
  registry_core::ask(session_->tasks, core_->make_cause(cancel_kind::closed, "task registry", "the registry closes"));
  holds_.add();
  if (!core_->watch(*this, owner_)) {
    static_cast<void>(holds_.claim());
    static_cast<void>(holds_.drop());
    return holds_.drop();
  }
  if (limit_ != std::chrono::nanoseconds::max()) {
    timer_.owner = this;
    timer_.node.due = deadline_after(core_->time().now(), limit_);
    timer_.node.fire = &deadline_passed;
    holds_.add();
    const errc refused = core_->timers().arm(timer_.node);
    if (refused != errc::none) {
      static_cast<void>(holds_.drop());
      // Nothing would tell that the time has passed: it has.
      if (holds_.claim() && core_->unwatch(*this)) static_cast<void>(holds_.drop());
    } else if (holds_.claimed()) {
      drop_timer();
    }
  }
  return holds_.drop();
}

void registry_close_operation::drop() noexcept {
  if (holds_.drop()) decided(*this);
}

void registry_close_operation::drop_timer() noexcept {
  if (limit_ != std::chrono::nanoseconds::max() && core_->timers().disarm(timer_.node)) drop();
}

void registry_close_operation::all_ended() noexcept {
  static_cast<void>(holds_.claim());
  drop_timer();
  drop();
}

void registry_close_operation::deadline_passed(timer_node& fired) noexcept {
  registry_close_operation& self = *reinterpret_cast<timer_slot&>(fired).owner;
  if (self.holds_.claim() && self.core_->unwatch(self)) self.drop();  // not the last: the timer's own follows
  self.drop();
}

void registry_close_operation::cancel(cancel_force) noexcept {
  if (core_ == nullptr || core_->forked() || !holds_.claim()) return;
  cancelled_ = true;
  holds_.add();
  drop_timer();
  if (core_->unwatch(*this)) drop();
  drop();
}

task_report registry_close_operation::result() const {
  if (failed_ == errc::not_enough_memory) throw std::bad_alloc();
  if (core_ == nullptr) return task_report();
  return core_->report(session_->tasks, session_->began);
}

}  // namespace penstock::detail
