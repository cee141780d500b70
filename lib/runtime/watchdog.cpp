// When the watchdog looks, and what it does with what it finds.
// Floor 7, room runtime.
#include "runtime/watchdog.hpp"

#include "exec/context.hpp"

#include <penstock/exec/worker_pool.hpp>

#include <algorithm>
#include <utility>

namespace penstock {

watchdog::watchdog(watchdog_options&& options, execution_environment& environment, std::shared_ptr<log> lines)
    : time_(environment.time()),
      every_(options.get().every),
      lines_(std::move(lines)),
      own_pool_(environment.make_pool("watchdog", worker_pool_options().threads(1))),
      on_report_(std::move(options.get().on_report)),
      machine_(options.get().stuck_after) {
  if (!on_report_) on_report_ = [to = lines_](const watchdog_report& report) { to->stuck(report); };
  timer_.owner = this;
  timer_.node.fire = &time_has_come;
  timer_.node.background = true;
}

watchdog::~watchdog() = default;

void watchdog::start(detail::bus_core& core, std::vector<scheduler_ptr> pools) {
  const auto self = shared_from_this();
  {
    lock_guard lock(m_);
    core_ = ref_ptr<detail::bus_core>::share(&core);
    pools_ = pools;
  }
  for (const scheduler_ptr& pool : pools)
    if (detail::watched_pool* seen = pool->watched()) seen->watch(self);
  plan();
}

void watchdog::stop() noexcept {
  std::vector<scheduler_ptr> pools;
  ref_ptr<detail::bus_core> core;
  {
    lock_guard lock(m_);
    if (std::exchange(stopped_, true)) return;
    resting_ = false;
    if (armed_ && own_pool_->timers().disarm(timer_.node)) armed_ = false;
    pools.swap(pools_);
    core = std::move(core_);
  }
  for (const scheduler_ptr& pool : pools)
    if (detail::watched_pool* seen = pool->watched()) seen->watch(nullptr);
}

// Without a timer it sleeps until something begins: better blind for a while than in the way.
void watchdog::arm_locked(steady_time due) noexcept {
  timer_.node.due = due;
  armed_ = own_pool_->timers().arm(timer_.node) == errc::none;
  if (armed_) return;
  resting_ = true;
  for (const scheduler_ptr& pool : pools_)
    if (detail::watched_pool* seen = pool->watched()) seen->ring_next();
}

void watchdog::ring() noexcept {
  const steady_time next = deadline_after(time_.now(), every_);
  lock_guard lock(m_);
  if (stopped_ || !std::exchange(resting_, false)) return;
  if (armed_) {
    if (timer_.node.due <= next) return;
    if (!own_pool_->timers().disarm(timer_.node)) return;  // it fires now
  }
  arm_locked(next);
}

void watchdog::time_has_come(timer_node& fired) noexcept {
  watchdog& self = *reinterpret_cast<timer_slot&>(fired).owner;
  {
    lock_guard lock(self.m_);
    self.armed_ = self.resting_ = false;
    if (self.stopped_ || self.queued_) return;
    self.queued_ = self.weak_from_this().lock();
    if (!self.queued_) return;
  }
  self.own_pool_->schedule(self);
}

void watchdog::dropped() noexcept {
  std::shared_ptr<watchdog> keep;
  lock_guard lock(m_);
  keep.swap(queued_);
}

void watchdog::run(unsigned) {
  std::shared_ptr<watchdog> keep;
  {
    lock_guard lock(m_);
    keep.swap(queued_);
  }
  try {
    look();
  } catch (const std::exception&) {  // no memory: it looks again
  }
  plan();
}

void watchdog::look() {
  ref_ptr<detail::bus_core> core;
  std::vector<scheduler_ptr> pools;
  {
    lock_guard lock(m_);
    if (stopped_) return;
    core = ref_ptr<detail::bus_core>::share(core_.get());
    pools = pools_;
  }
  watchdog_view view;
  // The pools first: what a worker has in hand then and the bus shows later is a call in which it may be; the other way
  // round a call that has ended would be looked for on a worker that has gone on.
  for (const scheduler_ptr& pool : pools) {
    detail::watched_pool* seen = pool->watched();
    view.pools.push_back(seen != nullptr ? seen->look() : detail::pool_look{});
  }
  core->watch(view.calls, view.waits);
  std::set<const runnable*> asked_for;
  for (const detail::pool_look& pool : view.pools)
    for (const detail::working_look& worker : pool.working) asked_for.insert(worker.runs);
  for (const detail::watched_wait& wait : view.waits) asked_for.insert(wait.task);
  for (watched_source& source : sources_) source.look(asked_for, view.calls);
  std::vector<watchdog_finding> found = machine_.look(view, time_.now());
  for (watchdog_finding& each : found) tell(each, pools);
}

void watchdog::tell(watchdog_finding& found, const std::vector<scheduler_ptr>& pools) {
  if (found.pool != watchdog_finding::no_pool)
    if (detail::watched_pool* seen = pools[found.pool]->watched())
      found.report.stack = seen->stack_of(found.worker);
  exec::context hook{exec::context_kind::hook};
  exec::context_scope scope(&hook);
  try {
    on_report_(found.report);
  } catch (...) {
    const watchdog_report& told = found.report;
    lines_->hook_threw({.hook = "the watchdog's on_report",
                        .subscription = told.subscription,
                        .task = told.task,
                        .pool = told.pool,
                        .event = told.event,
                        .sequence = told.sequence,
                        .thrown = describe_current_exception()});
  }
}

// The next look: soon while somebody works, when something is due while only calls go on that hold no worker, else never.
void watchdog::plan() noexcept {
  const steady_time now = time_.now();
  const steady_time due = machine_.due();
  const steady_time soon = std::min(due, deadline_after(now, every_));
  lock_guard lock(m_);
  if (stopped_ || armed_) return;
  bool rest = true;
  for (const scheduler_ptr& pool : pools_) {
    if (!rest) break;
    if (detail::watched_pool* seen = pool->watched()) rest = seen->rest();
  }
  // Last: what began elsewhere before a pool was at rest is seen here, and what begins now finds it resting and rings.
  if (core_->any_elsewhere()) rest = false;
  for (watched_source& source : sources_)
    if (source.elsewhere()) rest = false;
  resting_ = rest;
  if (!rest)
    arm_locked(soon);
  else if (due != no_deadline)
    arm_locked(due);
}

}  // namespace penstock
