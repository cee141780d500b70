// One background task: the shell around its state machine.
// Floor 4, room task.
#include <penstock/task/task_entry.hpp>

#include "base/forced_unwind.hpp"
#include "base/mutex.hpp"
#include "exec/context.hpp"
#include "exec/pool_lane.hpp"
#include "exec/watched.hpp"
#include "sync/parker.hpp"
#include "task/registry_core.hpp"
#include "task/task_machine.hpp"

#include <algorithm>
#include <system_error>
#include <utility>
#include <vector>

namespace penstock::detail {

struct task_entry::parts {
  explicit parts(entry_recipe&& made)
      : core(ref_ptr<registry_core>::share(made.core)),
        name(std::move(made.name)),
        owner(std::move(made.owner)),
        file(std::move(made.file)),
        line(made.line),
        body(made.body),
        may_wait(made.may_wait),
        pool(made.options.pool()),
        order(made.options.order()),
        spawned(core->time().now()),
        machine(made.options.restart()) {}

  // Constant once it has been admitted.
  const ref_ptr<registry_core> core;
  const std::string name;
  const std::string owner;
  const std::string file;
  const unsigned line;
  const task_body body;
  const bool may_wait;
  const scheduler_ptr pool;
  const stop_order order;
  const steady_time spawned;
  std::uint64_t id = 0;

  std::atomic<std::uint32_t> count{1};
  sync::atomic<std::uint32_t> done{0};  // 1: ended, its code destroyed, the account moved
  struct pause_slot {
    timer_node node;
    task_entry* owner = nullptr;
  } pause;

  mutable mutex m;  // protects what follows; no lock is taken while it is held
  task_machine machine PENSTOCK_GUARDED_BY(m);
  std::shared_ptr<const cause> stop PENSTOCK_GUARDED_BY(m);
  std::exception_ptr error PENSTOCK_GUARDED_BY(m);
  std::string last_failure PENSTOCK_GUARDED_BY(m);
  steady_time run_began PENSTOCK_GUARDED_BY(m){};
  steady_time tick_began PENSTOCK_GUARDED_BY(m){};  // zero: it is in none
  const runnable* tick_call PENSTOCK_GUARDED_BY(m) = nullptr;
  steady_time stop_asked PENSTOCK_GUARDED_BY(m){};
  std::uint64_t ticks PENSTOCK_GUARDED_BY(m) = 0;
  std::uint64_t missed PENSTOCK_GUARDED_BY(m) = 0;
  std::vector<std::unique_ptr<end_told>> told PENSTOCK_GUARDED_BY(m);
  task_wait_operation* waiters PENSTOCK_GUARDED_BY(m) = nullptr;
};

/// Somebody who is told of the end, on the task's pool. Made when it is asked for, so that the end itself needs no memory;
/// owns itself while it is scheduled.
struct task_entry::end_told final : runnable {
  explicit end_told(unique_function<void(const task_handle&)>&& given) noexcept : told(std::move(given)) {}
  PENSTOCK_CATCHES_FORCED_UNWIND
  void run(unsigned) override {
    const std::unique_ptr<end_told> keep(this);
    exec::context working{exec::context_kind::worker};
    exec::context_scope scope(entry->parts_->pool->may_wait() ? nullptr : &working);
    call();
  }
  PENSTOCK_CATCHES_FORCED_UNWIND
  void dropped() noexcept override {  // its pool has ended: nobody else will
    const std::unique_ptr<end_told> keep(this);
    exec::context hook{exec::context_kind::hook};
    exec::context_scope scope(&hook);
    call();
  }
  PENSTOCK_CATCHES_FORCED_UNWIND
  void call() {
    try {
      told(task);
    } catch (const forced_unwind&) {
      throw;
    } catch (...) {
      const failure record = entry->describe_failure();
      entry->parts_->core->report_failure(record);
    }
  }

  unique_function<void(const task_handle&)> told;
  task_handle task;  // since it has ended
  task_entry* entry = nullptr;
};

task_entry::task_entry(entry_recipe&& made) : parts_(std::make_unique<parts>(std::move(made))) {}
task_entry::~task_entry() = default;

void task_entry::retain() noexcept { parts_->count.fetch_add(1, std::memory_order_relaxed); }
void task_entry::release() noexcept {
  if (parts_->count.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
}

const std::string& task_entry::name() const noexcept { return parts_->name; }
const std::string& task_entry::owner() const noexcept { return parts_->owner; }
stop_order task_entry::order() const noexcept { return parts_->order; }
std::uint64_t task_entry::id() const noexcept { return parts_->id; }
void task_entry::admitted(std::uint64_t id) noexcept { parts_->id = id; }
void task_entry::mark_ended() noexcept { parts_->done.store(1); }
registry_core& task_entry::core() const noexcept { return *parts_->core; }
const scheduler_ptr& task_entry::pool() const noexcept { return parts_->pool; }

// --- its life ----------------------------------------------------------------------------------------------------------

void task_entry::begin() noexcept {
  retain();  // the registry's, until it has ended
  schedule_run();
}

void task_entry::schedule_run() noexcept {
  retain();  // the turn's
  const scheduler_ptr pool = parts_->pool;  // it may run, and end, before this returns
  pool->schedule(*this);
}

PENSTOCK_CATCHES_FORCED_UNWIND
void task_entry::run(unsigned) {
  const auto keep = ref_ptr<task_entry>::adopt(this);
  parts& p = *parts_;
  exec::context working{exec::context_kind::worker};
  if (p.may_wait) working = {.kind = exec::context_kind::awaited, .lane = p.core.get(), .task = this};
  working.in_hand = this;
  exec::context_scope scope(&working);
  std::shared_ptr<const cause> stopped;
  {
    const steady_time now = p.core->time().now();
    lock_guard lock(p.m);
    if (p.machine.stop_requested()) {
      stopped = p.stop;
    } else {
      p.machine.on(task_event::begun, now, 0);
      p.run_began = now;
    }
  }
  if (stopped) return run_ended(std::make_exception_ptr(cancelled(std::move(stopped))), false);
  try {
    launch();
  } catch (const forced_unwind&) {
    run_ended(std::make_exception_ptr(std::system_error(make_error_code(errc::closed), "its thread was cancelled")), false);
    throw;
  } catch (...) {
    run_ended(std::current_exception(), false);
  }
}

void task_entry::dropped() noexcept {
  const auto keep = ref_ptr<task_entry>::adopt(this);
  run_ended(std::make_exception_ptr(
                std::system_error(make_error_code(parts_->pool->why_dropped()), "the pool ended before the task did")),
            true);
}

void task_entry::run_ended(std::exception_ptr error, bool pool_ended) noexcept {
  const auto keep = ref_ptr<task_entry>::share(this);
  if (pool_ended) return step(task_event::dropped, std::move(error), nullptr);
  if (!error) return step(task_event::completed, nullptr, nullptr);
  try {
    std::rethrow_exception(error);
  } catch (const cancelled&) {
    if (stop_requested()) return step(task_event::cancelled, std::move(error), nullptr);
    failure record = describe_failure();  // somebody else's, that it let through
    step(task_event::failed, std::move(error), &record);
  } catch (...) {
    failure record = describe_failure();  // the exception is current while the hook is told
    step(task_event::failed, std::move(error), &record);
  }
}

failure task_entry::describe_failure() noexcept {
  const parts& p = *parts_;
  failure record;
  record.exception = describe_current_exception();
  record.line = p.line;
  {
    lock_guard lock(p.m);
    record.attempt = static_cast<unsigned>(p.machine.runs());
  }
  try {
    record.task = p.name;
    record.file = p.file;
  } catch (...) {  // no memory for the names: told all the same
  }
  return record;
}

void task_entry::step(task_event event, std::exception_ptr error, const failure* record) noexcept {
  parts& p = *parts_;
  const steady_time now = p.core->time().now();
  const std::uint64_t random = p.core->random();
  task_actions to_do;
  std::shared_ptr<const cause> stop;
  {
    lock_guard lock(p.m);
    to_do = p.machine.on(event, now, random);
    // What it replaces is the user's: it dies after the lock.
    if (error || event == task_event::completed) std::swap(p.error, error);
    p.run_began = p.tick_began = {};
    stop = p.stop;
    if (record != nullptr) {
      try {
        p.last_failure = record->exception.type_name;
        if (!record->exception.what.empty()) p.last_failure += ": " + record->exception.what;
      } catch (...) {
        p.last_failure.clear();
      }
    }
  }
  perform(to_do, stop, record);
}

void task_entry::perform(const task_actions& to_do, const std::shared_ptr<const cause>& stop,
                         const failure* record) noexcept {
  parts& p = *parts_;
  if (to_do.report && record != nullptr) p.core->report_failure(*record);
  if (to_do.disarm && p.pool->timers().disarm(p.pause.node)) release();  // the timer's; the caller has one of its own
  if (to_do.ask) ask(stop);
  if (to_do.start) schedule_run();
  if (to_do.pause) pause_for(to_do.pause_for);
  if (to_do.escalate && record != nullptr) p.core->escalate(*record);
  if (to_do.end) over();
}

void task_entry::pause_for(std::chrono::nanoseconds wait) noexcept {
  parts& p = *parts_;
  p.pause.owner = this;
  p.pause.node.due = deadline_after(p.core->time().now(), wait);
  p.pause.node.fire = [](timer_node& fired) noexcept {
    const auto keep = ref_ptr<task_entry>::adopt(reinterpret_cast<parts::pause_slot&>(fired).owner);
    keep->step(task_event::pause_over, nullptr, nullptr);
  };
  retain();  // the timer's
  if (p.pool->timers().arm(p.pause.node) != errc::none) {
    release();
    step(task_event::dropped, nullptr, nullptr);  // it would never be started again
    return;
  }
  // Stopped before the timer stood? A later pause of the same task, on another thread, may have set it again by now.
  bool ended = false;
  {
    lock_guard lock(p.m);
    ended = p.machine.phase() == task_phase::ended;
  }
  if (ended && p.pool->timers().disarm(p.pause.node)) release();
}

// The user's code goes first; then it is told.
void task_entry::over() noexcept {
  parts& p = *parts_;
  drop_code();
  task_fate how = task_fate::none;
  {
    lock_guard lock(p.m);
    how = p.machine.fate();
  }
  p.core->ended(*this, how);
  std::vector<std::unique_ptr<end_told>> told;
  task_wait_operation* waiters = nullptr;
  {
    lock_guard lock(p.m);
    told.swap(p.told);
    waiters = std::exchange(p.waiters, nullptr);
    for (task_wait_operation* each = waiters; each != nullptr; each = each->next_) each->linked_ = false;
  }
  sync::unpark_all(&p.done);
  while (waiters != nullptr) {
    task_wait_operation* each = std::exchange(waiters, waiters->next_);
    each->has_ended();  // it may be gone when this returns
  }
  for (auto& each : told) tell(std::move(each));
  p.core->tell_if_empty();
  release();  // the registry's
}

void task_entry::tell(std::unique_ptr<end_told> told) noexcept {
  retain();
  told->task = task_handle(this);
  told->entry = this;
  const scheduler_ptr pool = parts_->pool;
  pool->schedule(*told.release());
}

// --- from outside ------------------------------------------------------------------------------------------------------

bool task_entry::request_stop(std::shared_ptr<const cause> why) noexcept {
  const auto keep = ref_ptr<task_entry>::share(this);
  parts& p = *parts_;
  if (p.core->forked()) return false;
  task_actions to_do;
  std::exception_ptr error = std::make_exception_ptr(cancelled(why));
  const steady_time now = p.core->time().now();
  {
    lock_guard lock(p.m);
    if (p.machine.stop_requested() || p.machine.phase() == task_phase::ended) return false;
    p.stop = why;
    p.stop_asked = now;
    to_do = p.machine.on(task_event::stop_requested, steady_time{}, 0);
    if (to_do.end) std::swap(p.error, error);
  }
  perform(to_do, why, nullptr);
  return true;
}

task_status task_entry::status() const noexcept {
  const parts& p = *parts_;
  if (p.done.load() == 0) return p.core->forked() ? task_status::closed : task_status::running;
  lock_guard lock(p.m);
  switch (p.machine.fate()) {
    case task_fate::none: break;
    case task_fate::completed: return task_status::completed;
    case task_fate::failed: return task_status::failed;
    case task_fate::cancelled: return task_status::cancelled;
    case task_fate::dropped: return task_status::closed;
  }
  return task_status::running;
}

std::exception_ptr task_entry::error() const noexcept {
  const parts& p = *parts_;
  if (p.done.load() == 0) return nullptr;
  lock_guard lock(p.m);
  return p.error;
}

bool task_entry::stop_requested() const noexcept {
  const parts& p = *parts_;
  lock_guard lock(p.m);
  return p.machine.stop_requested();
}

task_info task_entry::info() const {
  const parts& p = *parts_;
  task_info seen;
  seen.id = p.id;
  seen.name = p.name;
  seen.owner = p.owner;
  seen.pool = p.pool->name();
  seen.file = p.file;
  seen.line = p.line;
  seen.status = status();
  seen.order = p.order;
  if (p.core->forked()) return seen;
  const steady_time now = p.core->time().now();
  seen.age = now - p.spawned;
  const bool waits = suspended();
  lock_guard lock(p.m);
  seen.started = p.machine.ever_begun();
  seen.pausing = p.machine.phase() == task_phase::pausing;
  if (p.machine.phase() == task_phase::running && p.run_began != steady_time{}) seen.running = now - p.run_began;
  seen.suspended = waits && p.machine.phase() == task_phase::running && p.tick_call == nullptr;
  seen.runs = p.machine.runs();
  seen.failures = p.machine.failures();
  seen.last_failure = p.last_failure;
  seen.ticks = p.ticks;
  seen.missed = p.missed;
  seen.stop_requested = p.machine.stop_requested();
  if (p.stop) {
    seen.stop_kind = p.stop->kind;
    seen.stop_by = p.stop->who;
    seen.stop_reason = p.stop->reason;
  }
  return seen;
}

task_status task_entry::wait_until(steady_time deadline) {
  parts& p = *parts_;
  if (p.core->forked()) return task_status::closed;
  while (p.done.load() == 0)
    if (!sync::park(p.done, 0, deadline)) break;
  return status();
}

void task_entry::on_done(unique_function<void(const task_handle&)> told) {
  parts& p = *parts_;
  if (p.core->forked()) return;
  auto made = std::make_unique<end_told>(std::move(told));
  {
    lock_guard lock(p.m);
    if (p.done.load() == 0) {
      p.told.push_back(std::move(made));
      return;
    }
  }
  tell(std::move(made));
}

void task_entry::begin_tick() noexcept {
  const steady_time now = parts_->core->time().now();
  lock_guard lock(parts_->m);
  ++parts_->ticks;
  parts_->tick_began = now;
  parts_->tick_call = nullptr;
}

void task_entry::tick_calls(const runnable* call) noexcept {
  lock_guard lock(parts_->m);
  parts_->tick_call = call;
}

void task_entry::end_tick() noexcept {
  lock_guard lock(parts_->m);
  parts_->tick_began = {};
}

void task_entry::count_missed(std::uint64_t ticks) noexcept {
  lock_guard lock(parts_->m);
  parts_->missed += ticks;
}

void task_entry::tick_failed() noexcept {
  failure record = describe_failure();
  {
    lock_guard lock(parts_->m);
    record.attempt = static_cast<unsigned>(parts_->ticks);
    try {
      parts_->last_failure = record.exception.type_name;
      if (!record.exception.what.empty()) parts_->last_failure += ": " + record.exception.what;
    } catch (...) {
      parts_->last_failure.clear();
    }
  }
  parts_->core->report_failure(record);
}

// A task that waits is not stuck: it may be there to wait. It is when it has been asked to stop, when it is a tick, or a function
// that takes no stop token and so has to end by itself, and when it keeps a worker from others.
void task_entry::watch(const std::set<const runnable*>& asked_for, std::vector<watched_call>& calls) const {
  const parts& p = *parts_;
  const steady_time now = p.core->time().now();
  watched_call call;
  call.task = true;
  call.owner = p.id;
  call.runs = in_hand();
  call.suspended = true;
  steady_time since = no_deadline;
  {
    lock_guard lock(p.m);
    if (p.machine.phase() == task_phase::ended) return;
    const bool in_function = p.body != task_body::coroutine && p.run_began != steady_time{};
    call.sequence = p.ticks > 0 ? p.ticks : p.machine.runs();
    call.stop_requested = p.machine.stop_requested();
    call.suspended = !in_function;
    if (in_function && (p.body == task_body::function || !p.may_wait)) since = p.run_began;
    if (p.tick_began != steady_time{}) {
      since = p.tick_began;
      if (p.tick_call != nullptr) call.runs = p.tick_call;
    }
    if (call.stop_requested) since = std::min(since, p.stop_asked);
  }
  if (since != no_deadline)
    call.at_least = now - since;
  else if (!asked_for.contains(call.runs))
    return;
  else
    call.counts = p.body == task_body::coroutine ? watched_call::span::one_turn : watched_call::span::none;
  call.name = p.name;
  call.pool = p.pool->name();
  call.file = p.file;
  call.line = p.line;
  calls.push_back(std::move(call));
}

// --- a function --------------------------------------------------------------------------------------------------------

function_entry::function_entry(entry_recipe&& made, unique_function<void(std::stop_token)> body)
    : task_entry(std::move(made)), body_(std::move(body)) {}
function_entry::~function_entry() = default;

void function_entry::launch() {
  body_(stop_.get_token());
  run_ended(nullptr, false);
}
void function_entry::ask(const std::shared_ptr<const cause>&) noexcept { stop_.request_stop(); }
void function_entry::drop_code() noexcept { body_ = {}; }

// --- a coroutine -------------------------------------------------------------------------------------------------------

/// The run in progress, and whether it has been asked to stop before it was known.
struct coroutine_entry_base::running {
  mutex m;  // protects what follows; no lock is taken while it is held
  started_task* run PENSTOCK_GUARDED_BY(m) = nullptr;
  const penstock::runnable* lane PENSTOCK_GUARDED_BY(m) = nullptr;  // of `run`
  std::shared_ptr<const cause> asked PENSTOCK_GUARDED_BY(m);
};

coroutine_entry_base::coroutine_entry_base(entry_recipe&& made)
    : task_entry(std::move(made)), running_(std::make_unique<running>()) {}
coroutine_entry_base::~coroutine_entry_base() = default;

void coroutine_entry_base::launched(started_task* run) noexcept {
  std::shared_ptr<const cause> asked;
  run->retain();  // until it is over
  {
    lock_guard lock(running_->m);
    running_->run = run;
    running_->lane = &static_cast<exec::pool_lane&>(run->home());  // its own: it was made from a pool
    asked = running_->asked;
  }
  if (asked) run->request_cancel(std::move(asked));
  run->start();
  run->release();
}

void coroutine_entry_base::over() noexcept {
  started_task* run = nullptr;
  {
    lock_guard lock(running_->m);
    run = std::exchange(running_->run, nullptr);
    running_->lane = nullptr;
  }
  if (run != nullptr) run->release();
}

bool coroutine_entry_base::suspended() const noexcept {
  lock_guard lock(running_->m);
  return running_->run != nullptr && !static_cast<const exec::pool_lane&>(running_->run->home()).in_turn();
}

void coroutine_entry_base::ask(const std::shared_ptr<const cause>& why) noexcept {
  started_task* run = nullptr;
  {
    lock_guard lock(running_->m);
    running_->asked = why;
    run = running_->run;
    if (run != nullptr) run->retain();
  }
  if (run == nullptr) return;
  run->request_cancel(why);
  run->release();
}

const penstock::runnable* coroutine_entry_base::in_hand() const noexcept {
  lock_guard lock(running_->m);
  return running_->lane != nullptr ? running_->lane : task_entry::in_hand();
}

// --- waiting with an operation -----------------------------------------------------------------------------------------

task_wait_operation::task_wait_operation(task_entry* entry) noexcept : entry_(entry) {
  if (entry_ != nullptr) entry_->retain();
}
task_wait_operation::~task_wait_operation() {
  if (entry_ != nullptr) entry_->release();
}

bool task_wait_operation::start() noexcept {
  if (entry_ == nullptr || entry_->core().forked()) return true;
  task_entry::parts& p = *entry_->parts_;
  holds_.add();
  bool over = false;
  {
    lock_guard lock(p.m);
    over = p.done.load() != 0;
    if (!over) {
      linked_ = true;
      next_ = p.waiters;
      previous_ = nullptr;
      if (p.waiters != nullptr) p.waiters->previous_ = this;
      p.waiters = this;
    }
  }
  if (over) {
    static_cast<void>(holds_.claim());
    static_cast<void>(holds_.drop());
  }
  return holds_.drop();
}

void task_wait_operation::drop() noexcept {
  if (holds_.drop()) decided(*this);
}

void task_wait_operation::has_ended() noexcept {
  static_cast<void>(holds_.claim());
  drop();
}

void task_wait_operation::cancel(cancel_force) noexcept {
  if (entry_ == nullptr || entry_->core().forked()) return;
  task_entry::parts& p = *entry_->parts_;
  {
    lock_guard lock(p.m);
    if (!linked_) return;  // it is being told
    linked_ = false;
    (previous_ != nullptr ? previous_->next_ : p.waiters) = next_;
    if (next_ != nullptr) next_->previous_ = previous_;
  }
  static_cast<void>(holds_.claim());
  cancelled_ = true;
  drop();
}

task_status task_wait_operation::result() const noexcept {
  return entry_ != nullptr ? entry_->status() : task_status::closed;
}

}  // namespace penstock::detail
