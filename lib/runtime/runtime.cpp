// The composition root.
// Floor 7, room runtime.
#include <penstock/runtime/runtime.hpp>

#include "base/mutex.hpp"
#include "bus/bus_core.hpp"
#include "exec/context.hpp"
#include "exec/worker_pool_options.hpp"
#include "runtime/log.hpp"
#include "runtime/shutdown_machine.hpp"
#include "runtime/watchdog.hpp"
#include "sync/parker.hpp"
#include "task/registry_core.hpp"

#include <penstock/runtime/signal_watcher.hpp>

#include <atomic>
#include <csignal>
#include <map>
#include <new>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

#include <unistd.h>

namespace penstock {

struct runtime_options::fields {
  std::map<std::string, worker_pool_options, std::less<>> pools;
  unique_function<void(const failure&)> on_failure;
  unique_function<void(const std::string&)> on_unmatched;
  unique_function<void(const failure&)> on_escalate;
  std::chrono::nanoseconds shutdown_within = std::chrono::seconds(5);
  std::vector<int> signals;
  unique_function<void(const log_record&)> log_sink;
  log_level least = log_level::info;
  std::optional<watchdog_options> watchdog;
  std::shared_ptr<execution_environment> environment;
};

runtime_options::runtime_options() : fields_(std::make_unique<fields>()) {}
runtime_options::runtime_options(runtime_options&&) noexcept = default;
runtime_options& runtime_options::operator=(runtime_options&&) noexcept = default;
runtime_options::~runtime_options() = default;

runtime_options::fields& runtime_options::made() {
  if (!fields_) fields_ = std::make_unique<fields>();  // set again after it was moved from
  return *fields_;
}

runtime_options& runtime_options::pool(std::string_view name, worker_pool_options options) & {
  made().pools.insert_or_assign(std::string(name), std::move(options));
  return *this;
}
runtime_options&& runtime_options::pool(std::string_view name, worker_pool_options options) && {
  return std::move(pool(name, std::move(options)));
}
runtime_options& runtime_options::on_failure(unique_function<void(const failure&)> hook) & {
  made().on_failure = std::move(hook);
  return *this;
}
runtime_options&& runtime_options::on_failure(unique_function<void(const failure&)> hook) && {
  return std::move(on_failure(std::move(hook)));
}
runtime_options& runtime_options::on_unmatched(unique_function<void(const std::string&)> hook) & {
  made().on_unmatched = std::move(hook);
  return *this;
}
runtime_options&& runtime_options::on_unmatched(unique_function<void(const std::string&)> hook) && {
  return std::move(on_unmatched(std::move(hook)));
}
runtime_options& runtime_options::on_escalate(unique_function<void(const failure&)> hook) & {
  made().on_escalate = std::move(hook);
  return *this;
}
runtime_options&& runtime_options::on_escalate(unique_function<void(const failure&)> hook) && {
  return std::move(on_escalate(std::move(hook)));
}
runtime_options& runtime_options::shutdown_within(std::chrono::nanoseconds limit) & {
  made().shutdown_within = limit;
  return *this;
}
runtime_options&& runtime_options::shutdown_within(std::chrono::nanoseconds limit) && {
  return std::move(shutdown_within(limit));
}
runtime_options& runtime_options::log_to(unique_function<void(const log_record&)> sink) & {
  made().log_sink = std::move(sink);
  return *this;
}
runtime_options&& runtime_options::log_to(unique_function<void(const log_record&)> sink) && {
  return std::move(log_to(std::move(sink)));
}
runtime_options& runtime_options::log_from(log_level least) & {
  made().least = least;
  return *this;
}
runtime_options&& runtime_options::log_from(log_level least) && { return std::move(log_from(least)); }
runtime_options& runtime_options::stop_on_signals(std::vector<int> signals) & {
  made().signals = std::move(signals);
  return *this;
}
runtime_options&& runtime_options::stop_on_signals(std::vector<int> signals) && {
  return std::move(stop_on_signals(std::move(signals)));
}
runtime_options& runtime_options::watchdog(watchdog_options options) & {
  made().watchdog = std::move(options);
  return *this;
}
runtime_options&& runtime_options::watchdog(watchdog_options options) && { return std::move(watchdog(std::move(options))); }
runtime_options& runtime_options::environment(std::shared_ptr<execution_environment> given) & {
  made().environment = std::move(given);
  return *this;
}
runtime_options&& runtime_options::environment(std::shared_ptr<execution_environment> given) && {
  return std::move(environment(std::move(given)));
}

namespace {
/// Workers that are in no call end within this; it is theirs even when the budget is spent.
constexpr std::chrono::milliseconds at_once{20};

/// Both, one after the other; without memory as much of it as a string holds by itself, and a mark.
std::string joined(std::string_view what, std::string_view whose) noexcept {
  try {
    return std::string(what).append(whose);
  } catch (const std::bad_alloc&) {
  }
  constexpr std::string_view mark = "…";
  std::string text;
  const std::size_t room = text.capacity() - mark.size();
  text.append(what.substr(0, room));
  text.append(whose.substr(0, room - text.size()));
  const auto goes_on_with = [&](char byte) { return (static_cast<unsigned char>(byte) & 0xc0) == 0x80; };
  char next = text.size() < what.size() ? what[text.size()] : whose[text.size() - what.size()];
  while (goes_on_with(next) && !text.empty()) {  // between two characters, not within one
    next = text.back();
    text.pop_back();
  }
  return text.append(mark);
}
}  // namespace

struct runtime::state {
  std::shared_ptr<log> lines;
  std::chrono::nanoseconds default_limit{};
  std::shared_ptr<execution_environment> environment;
  std::map<std::string, scheduler_ptr, std::less<>> pools;
  std::optional<event_bus> bus;
  detail::bus_core* core = nullptr;
  std::optional<task_registry> tasks;
  detail::registry_core* registry = nullptr;
  std::shared_ptr<penstock::watchdog> watch;  // null: nobody watches

  // Of whoever drives the shutdown.
  std::vector<ref_ptr<detail::subscription_core>> ending;
  steady_time drain_began{};
  std::vector<std::uint64_t> running_before;  // what ran when the drain began, and still runs, has run all the time between
  detail::registry_core::entries ending_tasks;
  unsigned abandoned_workers = 0;

  std::atomic<bool> give_up{false};  // somebody forces the end
  mutex m;  // protects what follows; taken with no other lock held
  shutdown_machine machine PENSTOCK_GUARDED_BY(m);
  shutdown_actions left_to_do PENSTOCK_GUARDED_BY(m);  // there was no memory for them
  std::string reason PENSTOCK_GUARDED_BY(m);
  bool driven PENSTOCK_GUARDED_BY(m) = false;     // by somebody, perhaps only for the first steps
  bool to_the_end PENSTOCK_GUARDED_BY(m) = false;  // by somebody who goes on until the report
  shutdown_report report PENSTOCK_GUARDED_BY(m);
  sync::atomic<std::uint32_t> done{0};     // 1: the report is final
  sync::atomic<std::uint32_t> changes{0};  // moves when a shutdown has been requested or has ended, or nobody drives it
  std::optional<signal_watcher> signals;   // its thread uses all the above

  shutdown_report shut_down(std::chrono::nanoseconds limit, std::string_view why);
  void request(std::chrono::nanoseconds limit, std::string_view why, std::string_view whose = {}) noexcept;
  void force() noexcept;
  bool requested() noexcept {
    lock_guard lock(m);
    return machine.begun();
  }
  bool is_driven() noexcept {
    lock_guard lock(m);
    return to_the_end && done.load() == 0;
  }
  bool waited_for_here(const void* by) const noexcept {
    const exec::context* current = exec::current_context();
    return current != nullptr && current->kind == exec::context_kind::awaited && current->lane == by;
  }
  /// Not in a handler or a hook, nor in one of its own tasks, nor in what the shutdown itself calls: it would wait for itself.
  bool may_wait_for_end() const noexcept {
    return exec::may_wait_here() && !waited_for_here(registry) && !waited_for_here(this);
  }
  /// The context of the user's code that the shutdown calls: stop callbacks, destructors of closures.
  exec::context calling_out(void* by) const noexcept {
    const exec::context* current = exec::current_context();
    exec::context made = current != nullptr ? *current : exec::context{exec::context_kind::awaited};
    if (!exec::may_wait_here()) return made;
    made.kind = exec::context_kind::awaited;
    made.lane = by;
    return made;
  }
  void moved() noexcept {
    changes.fetch_add(1);
    sync::unpark_all(&changes);
  }
  shutdown_report drive();
  bool wait_for(shutdown_phase phase, steady_time deadline);
  void do_what_is_left();
  void perform(const shutdown_actions& actions);
  shutdown_report finish();
  shutdown_report look();
  unsigned stop_pools(steady_time until) noexcept {
    if (watch) watch->stop();
    return environment->stop_pools(until);
  }
};

runtime::runtime() : runtime(runtime_options()) {}

runtime::runtime(runtime_options options) : state_(std::make_shared<state>()) {
  if (options.moved_from())
    throw std::system_error(make_error_code(errc::invalid_argument), "runtime: its options were moved from; make new ones");
  runtime_options::fields& made = options.get();
  state& s = *state_;
  s.default_limit = made.shutdown_within;
  s.environment = made.environment ? std::move(made.environment) : real_environment();
  made.pools.try_emplace("default");
  made.pools.try_emplace("blocking").first->second.may_wait(true);
  s.lines = std::make_shared<log>(std::move(made.log_sink), made.least, s.environment->time());
  const std::shared_ptr<log> lines = s.lines;
  if (!made.on_failure) made.on_failure = [lines](const failure& record) { lines->failed(record); };
  if (!made.on_escalate) made.on_escalate = [lines](const failure& record) { lines->escalated(record); };
  // One hook for handlers and tasks.
  const auto on_failure = std::make_shared<unique_function<void(const failure&)>>(std::move(made.on_failure));
  const auto on_escalate = std::make_shared<unique_function<void(const failure&)>>(std::move(made.on_escalate));
  const auto escalate = [on_escalate, weak = std::weak_ptr<state>(state_)](const failure& record) {
    std::string_view failed = record.task.empty() ? record.subscription : record.task;
    if (failed.empty()) failed = "a failure";  // there was no memory for the name
    if (const auto owner = weak.lock()) owner->request(owner->default_limit, "escalated by ", failed);
    (*on_escalate)(record);
  };
  const auto hook_threw = [lines](const detail::hook_problem& problem) { lines->hook_threw(problem); };
  detail::bus_hooks hooks;
  hooks.on_unmatched = std::move(made.on_unmatched);
  hooks.on_escalate = escalate;
  hooks.hook_threw = hook_threw;
  hooks.on_failure = [on_failure](const failure& record) { (*on_failure)(record); };
  detail::registry_hooks task_hooks;
  task_hooks.on_failure = [on_failure](const failure& record) { (*on_failure)(record); };
  task_hooks.on_escalate = escalate;
  task_hooks.hook_threw = hook_threw;
  const bool asked = made.watchdog.has_value();
  if (!asked) made.watchdog.emplace();
  if (made.watchdog->moved_from())
    throw std::system_error(make_error_code(errc::invalid_argument),
                            "runtime: its watchdog's options were moved from; make new ones");
  const watchdog_options::fields& watching = made.watchdog->get();
  try {
    std::shared_ptr<exec::stack_signal> stacks;
    if (watching.enabled && watching.stacks && !s.environment->simulated())
      stacks = std::make_shared<exec::stack_signal>(watching.signal);
    for (auto& [name, pool] : made.pools) {
      pool.get().stacks = stacks;
      pool.on_failure([lines, hook = std::move(pool.get().on_failure)](const failure& record) mutable {
        if (!hook) return lines->work_failed(record);
        try {
          hook(record);
        } catch (...) {
          const exception_record thrown = describe_current_exception();
          lines->hook_threw({.hook = "a pool's on_failure", .pool = record.subscription, .event = record.event, .thrown = thrown});
        }
      });
      s.pools.emplace(name, s.environment->make_pool(name, std::move(pool)));
    }
    s.core = new detail::bus_core(s.environment, s.pools.at("default"), std::move(hooks));
    s.bus.emplace(s.core);
    s.registry = new detail::registry_core(s.environment, s.pools.at("blocking"), s.pools.at("default"),
                                           std::move(task_hooks));
    s.tasks.emplace(s.registry);
    if (watching.enabled && (asked || !s.environment->simulated())) {
      std::vector<scheduler_ptr> pools;
      for (const auto& [name, pool] : s.pools) pools.push_back(pool);
      s.watch = std::make_shared<penstock::watchdog>(std::move(*made.watchdog), *s.environment, lines);
      const auto tasks = ref_ptr<detail::registry_core>::share(s.registry);
      s.watch->add_source({[tasks](const auto& asked_for, auto& calls) { tasks->watch(asked_for, calls); },
                           [tasks] { return tasks->any_elsewhere(); }});
      s.watch->start(*s.core, std::move(pools));
    }
    if (!made.signals.empty()) {
      s.signals.emplace(made.signals, [weak = std::weak_ptr<state>(state_), made_for = made.signals](int signal,
                                                                                                     unsigned times) {
        const auto owner = weak.lock();  // what it calls may end the runtime
        if (!owner) return;
        if (times == 1) {
          const char* name = sigabbrev_np(signal);  // a real-time signal has none
          owner->request(owner->default_limit, "signal ", name != nullptr ? std::string(name) : std::to_string(signal));
          return;
        }
        if (times == 2) owner->force();
        for (const int each : made_for) signal_watcher::restore_default(each);
        if (times > 2) kill(getpid(), signal);  // it came before its default effect was back
      });
    }
  } catch (...) {
    s.stop_pools(no_deadline);
    throw;
  }
}

runtime::~runtime() {
  state& s = *state_;
  if (s.core->forked()) {
    s.signals.reset();
    // The threads did not come along: there is nobody to join, and their locks may be held for ever.
    new std::shared_ptr<state>(std::move(state_));
    return;
  }
  // By what its own shutdown calls, on that stack or on a worker's: it goes on, and keeps what it needs, also its signals.
  if (s.waited_for_here(&s) || (!s.may_wait_for_end() && s.is_driven())) return;
  bool done = s.done.load() != 0;
  for (unsigned tries = 0; !done; ++tries) {
    try {
      const shutdown_report report = s.shut_down(s.default_limit, "runtime destroyed");
      if (!report.clean()) s.lines->not_clean(report);
      done = true;
    } catch (const std::bad_alloc&) {
      // Once more; then without a report, rather than ending the process.
      if (tries < 2) continue;
      s.core->close();
      s.stop_pools(deadline_after(s.environment->time().now(), at_once));
      done = true;
    }
  }
  s.lines->tell_left_out();
  if (!s.may_wait_for_end() && s.done.load() == 0) {
    // Destroyed by one of its own handlers or tasks: no thread may wait here, so the workers end by themselves.
    s.force();
    s.core->close();
    const auto core_cause = s.core->make_cause(cancel_kind::shutdown, "runtime", "destroyed by one of its own handlers");
    try {
      detail::registry_core::ask(s.registry->live({}), core_cause);
      for (const auto& each : s.core->subscriptions()) {
        each->stop();
        each->request_stop(core_cause);
        each->try_reap();
      }
    } catch (...) {
    }
    s.stop_pools(deadline_after(s.environment->time().now(), at_once));
  }
  s.signals.reset();  // only now: until here a second signal forces the end
}

event_bus& runtime::bus() noexcept { return *state_->bus; }
task_registry& runtime::tasks() noexcept { return *state_->tasks; }

scheduler_ptr runtime::pool(std::string_view name) const {
  const auto found = state_->pools.find(name);
  if (found != state_->pools.end()) return found->second;
  std::string known;
  for (const auto& [each, pool] : state_->pools) known += (known.empty() ? "" : ", ") + each;
  throw std::system_error(make_error_code(errc::not_found),
                          "pool \"" + std::string(name) + "\": this runtime has " + known +
                              "; add it with runtime_options::pool");
}

runtime_snapshot runtime::snapshot() const {
  state& s = *state_;
  runtime_snapshot seen;
  if (s.core->forked()) {
    seen.phase = "forked";
    return seen;
  }
  {
    lock_guard lock(s.m);
    seen.phase = to_string(s.machine.phase());
  }
  for (const auto& [name, pool] : s.pools)
    if (const auto* workers = dynamic_cast<const worker_pool*>(pool.get())) seen.pools.push_back(workers->snapshot());
  seen.tasks = s.tasks->snapshot();
  seen.bus = s.core->snapshot();
  return seen;
}

const clock& runtime::time() const noexcept { return state_->environment->time(); }
std::uint64_t runtime::lost_log_records() const noexcept { return state_->lines->lost(); }

shutdown_report runtime::shutdown_within(std::chrono::nanoseconds limit, std::string_view reason) {
  const std::shared_ptr<state> keep = state_;
  return keep->shut_down(limit, reason);
}

void runtime::request_shutdown(std::string_view reason) noexcept {
  const std::shared_ptr<state> keep = state_;
  keep->request(keep->default_limit, reason);
}

void runtime::force_shutdown() noexcept {
  const std::shared_ptr<state> keep = state_;
  keep->force();
}

bool runtime::shutdown_requested() const noexcept { return !state_->core->forked() && state_->requested(); }

shutdown_report runtime::wait_for_shutdown() {
  const std::shared_ptr<state> keep = state_;
  if (!keep->may_wait_for_end())
    throw std::system_error(make_error_code(errc::would_deadlock),
                            "wait_for_shutdown: a handler, a hook or a task may not wait; it is for the main thread");
  for (;;) {
    const std::uint32_t seen = keep->changes.load();
    if (keep->core->forked() || keep->requested()) return keep->shut_down(keep->default_limit, "");
    sync::park(keep->changes, seen, no_deadline);
  }
}

shutdown_report runtime::state::look() {
  shutdown_report moment;
  for (const auto& each : core->subscriptions()) moment.subscriptions.push_back({each->name, each->event(), each->ledger()});
  moment.tasks = registry->report(registry->live({}), environment->time().now());
  lock_guard lock(m);
  moment.reason = reason;
  moment.elapsed = environment->time().now() - machine.began();
  moment.tasks.elapsed = moment.elapsed;
  return moment;
}

// --- the shell around the shutdown's state machine -----------------------------------------------------------------------

/// What needs no waiting happens here, on whatever stack: all of the first step, and the second if there is no task to
/// wait for. Without memory for the lists that they take, whoever drives it does them.
void runtime::state::request(std::chrono::nanoseconds limit, std::string_view why, std::string_view whose) noexcept {
  if (core->forked()) return;
  const steady_time now = environment->time().now();
  const bool keeps = registry->live_count(stop_order::keep_until_drained) > 0;
  std::string text = joined(why, whose);
  {
    lock_guard lock(m);
    if (machine.begun()) return;
    reason = std::move(text);
    left_to_do = machine.begin(now, deadline_after(now, limit), keeps);
    driven = true;  // by us, for this moment
  }
  struct handing_on {
    state& s;
    ~handing_on() {
      {
        lock_guard lock(s.m);
        s.driven = false;
      }
      s.moved();
    }
  } when_left{*this};
  exec::context calling = calling_out(registry);
  exec::context_scope scope(&calling);
  try {
    do_what_is_left();
    if (registry->live_count(stop_order::stop_first) > 0) return;
    {
      lock_guard lock(m);
      left_to_do = machine.on(shutdown_event::condition_holds, now);
    }
    do_what_is_left();
  } catch (const std::bad_alloc&) {
  }
}

/// Whoever drives. Without memory it throws, and the same is left.
void runtime::state::do_what_is_left() {
  shutdown_actions to_do;
  {
    lock_guard lock(m);
    to_do = left_to_do;
  }
  perform(to_do);
  lock_guard lock(m);
  left_to_do = {};
}

void runtime::state::force() noexcept {
  if (core->forked()) return;
  {
    lock_guard lock(m);
    static_cast<void>(machine.on(shutdown_event::force, environment->time().now()));
    if (!machine.forced()) return;
  }
  give_up.store(true);
  core->wake_waiters();
  registry->wake_waiters();
}

/// Each of these may be done twice: when there was no memory the first time.
void runtime::state::perform(const shutdown_actions& actions) {
  if (actions.ask_first_tasks) {
    registry->refuse({});
    ending_tasks = registry->live({});
    detail::registry_core::ask(registry->live({{}, stop_order::stop_first}),
                               registry->make_cause(cancel_kind::shutdown, "runtime", "the runtime ends"));
  }
  if (actions.close_intake) {
    steady_time until{};
    {
      lock_guard lock(m);
      until = machine.drain_until();
    }
    core->close_intake();
    core->begin_drain(until);
    ending = core->subscriptions();
    drain_began = environment->time().now();
    running_before.clear();
    for (const auto& each : ending) running_before.push_back(each->running_sequence());
  }
  if (actions.close_bus) core->close();
  if (actions.end_drained) {
    // A publish that was admitted before the intake closed may have been seated only now: it is handled, not discarded.
    for (const auto& each : ending) {
      each->begin_drain();
      each->try_reap();
    }
  }
  if (actions.cancel_calls) {
    const auto why = core->make_cause(cancel_kind::shutdown, "runtime", "the drain ended at its deadline");
    // First everybody is told; hooks that take discarded events, and may take their time, come afterwards.
    std::vector<detail::subscription_core::stopping> begun;
    begun.reserve(ending.size());
    for (const auto& each : ending) {
      begun.push_back(each->begin_stop());
      each->request_stop(why);
    }
    for (std::size_t i = 0; i < ending.size(); ++i) {
      ending[i]->finish_stop(begun[i]);
      ending[i]->try_reap();
    }
  }
  if (actions.abandon_calls) {
    for (const auto& each : ending)
      if (!each->try_reap()) each->abandoned.store(true);
  }
  if (actions.ask_kept_tasks)
    detail::registry_core::ask(registry->live({}),
                               registry->make_cause(cancel_kind::shutdown, "runtime", "the runtime ends"));
}

/// Whether what the phase waits for has come, before its deadline.
bool runtime::state::wait_for(shutdown_phase phase, steady_time deadline) {
  switch (phase) {
    case shutdown_phase::open:
    case shutdown_phase::done: break;
    case shutdown_phase::stopping_tasks: return registry->wait_none(stop_order::stop_first, deadline, give_up);
    case shutdown_phase::draining: return core->wait_drained(deadline, give_up);
    case shutdown_phase::closing:
    case shutdown_phase::cancelling: {
      bool all = true;
      for (const auto& each : ending)
        if (!each->wait_ended(deadline, &give_up)) all = false;
      return all;
    }
    case shutdown_phase::stopping_kept: {
      // And for those that were asked first and have not ended in their share: what the drain left is theirs too.
      const bool kept = registry->wait_none(stop_order::keep_until_drained, deadline, give_up);
      return registry->wait_none(stop_order::stop_first, deadline, give_up) && kept;
    }
  }
  return true;
}

shutdown_report runtime::state::drive() {
  exec::context calling = calling_out(this);
  exec::context_scope scope(&calling);
  for (;;) {
    do_what_is_left();
    shutdown_phase phase{};
    steady_time deadline{};
    {
      lock_guard lock(m);
      phase = machine.phase();
      deadline = machine.phase_deadline();
    }
    if (phase == shutdown_phase::done) return finish();
    const bool holds = wait_for(phase, deadline);
    lock_guard lock(m);
    left_to_do = machine.on(holds ? shutdown_event::condition_holds : shutdown_event::time_passed,
                            environment->time().now());
  }
}

shutdown_report runtime::state::finish() {
  const clock& time = environment->time();
  shutdown_report made;
  steady_time began{};
  steady_time deadline{};
  {
    lock_guard lock(m);
    made.reason = reason;
    made.drained = machine.drained();
    made.forced = machine.forced();
    began = machine.began();
    deadline = machine.deadline();
  }
  const steady_time now = time.now();
  const steady_time soon = deadline_after(now, at_once);
  abandoned_workers += stop_pools(deadline > soon ? deadline : soon);
  made.abandoned_workers = abandoned_workers;
  // Only now: what waited has been dropped with its pool, and is not stuck.
  for (std::size_t i = 0; i < ending.size(); ++i) {
    detail::subscription_core& each = *ending[i];
    if (each.ended()) continue;
    const std::uint64_t running = each.running_sequence();
    const bool all_the_time = running != 0 && running == running_before[i];
    const auto at_least = all_the_time ? now - drain_began : steady_time::duration::zero();
    made.stuck.push_back({each.name, each.event(), running, at_least, each.file, each.line});
  }
  made.tasks = registry->report(ending_tasks, began);
  for (const auto& each : ending) made.subscriptions.push_back({each->name, each->event(), each->ledger()});
  made.loop = core->loop();
  made.elapsed = time.now() - began;
  return made;
}

shutdown_report runtime::state::shut_down(std::chrono::nanoseconds limit, std::string_view why) {
  if (core->forked()) {  // the locks may be held for ever by threads that did not come along
    shutdown_report nothing;
    nothing.reason = "forked: this process has none of the runtime's threads";
    return nothing;
  }
  request(limit, why);
  if (!may_wait_for_end() && done.load() == 0) return look();
  for (;;) {
    const std::uint32_t seen = changes.load();
    {
      lock_guard lock(m);
      if (done.load() != 0) return report;
      if (!std::exchange(driven, true)) {  // by us, then
        to_the_end = true;
        break;
      }
    }
    sync::park(changes, seen, no_deadline);
  }

  shutdown_report made;
  try {
    made = drive();
  } catch (...) {  // no memory for the lists: what has been done stays done, and it can be asked again
    {
      lock_guard lock(m);
      driven = to_the_end = false;
    }
    moved();
    throw;
  }
  {
    lock_guard lock(m);
    report = std::move(made);
    ending.clear();
    ending_tasks.clear();
    done.store(1);
  }
  moved();
  lock_guard lock(m);
  return report;
}

}  // namespace penstock
