// The composition root.
// Floor 7, room runtime.
#include <penstock/runtime/runtime.hpp>

#include "base/mutex.hpp"
#include "bus/bus_core.hpp"
#include "exec/context.hpp"
#include "exec/worker_pool_options.hpp"
#include "runtime/log.hpp"
#include "runtime/watchdog.hpp"
#include "sync/parker.hpp"

#include <map>
#include <new>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

namespace penstock {

struct runtime_options::fields {
  std::map<std::string, worker_pool_options, std::less<>> pools;
  unique_function<void(const failure&)> on_failure;
  unique_function<void(const std::string&)> on_unmatched;
  unique_function<void(const failure&)> on_escalate;
  std::chrono::nanoseconds shutdown_within = std::chrono::seconds(5);
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
}  // namespace

struct runtime::state {
  std::shared_ptr<log> lines = std::make_shared<log>();
  std::chrono::nanoseconds default_limit{};
  std::shared_ptr<execution_environment> environment;
  std::map<std::string, scheduler_ptr, std::less<>> pools;
  std::optional<event_bus> bus;
  detail::bus_core* core = nullptr;
  std::shared_ptr<penstock::watchdog> watch;  // null: nobody watches

  std::vector<ref_ptr<detail::subscription_core>> ending;  // of whoever has begun to shut down

  mutex m;  // protects what follows; taken with no other lock held
  bool begun PENSTOCK_GUARDED_BY(m) = false;
  shutdown_report report PENSTOCK_GUARDED_BY(m);
  sync::atomic<std::uint32_t> done{0};     // 1: the report is final
  sync::atomic<std::uint32_t> changes{0};  // moves when a shutdown has ended, or has given up for want of memory

  shutdown_report shut_down(std::chrono::nanoseconds limit, std::string_view reason);
  shutdown_report end_everything(steady_time began, std::chrono::nanoseconds limit, std::string_view reason);
  shutdown_report look(std::string_view reason, steady_time began);
  unsigned stop_pools(steady_time deadline) noexcept {
    if (watch) watch->stop();
    return environment->stop_pools(deadline);
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
  const std::shared_ptr<log> lines = s.lines;
  detail::bus_hooks hooks;
  hooks.on_unmatched = std::move(made.on_unmatched);
  hooks.on_escalate = std::move(made.on_escalate);
  hooks.log = [lines](const std::string& line) { lines->error(line); };
  if (made.on_failure)
    hooks.on_failure = std::move(made.on_failure);
  else
    hooks.on_failure = [lines](const failure& record) { lines->error(to_string(record)); };
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
      if (!pool.get().on_failure)
        pool.on_failure([lines](const failure& record) { lines->error(to_string(record)); });
      s.pools.emplace(name, s.environment->make_pool(name, std::move(pool)));
    }
    s.core = new detail::bus_core(s.environment, s.pools.at("default"), std::move(hooks));
    s.bus.emplace(s.core);
    if (watching.enabled && (asked || !s.environment->simulated())) {
      std::vector<scheduler_ptr> pools;
      for (const auto& [name, pool] : s.pools) pools.push_back(pool);
      s.watch = std::make_shared<penstock::watchdog>(std::move(*made.watchdog), *s.environment, lines);
      s.watch->start(*s.core, std::move(pools));
    }
  } catch (...) {
    s.stop_pools(no_deadline);
    throw;
  }
}

runtime::~runtime() {
  state& s = *state_;
  if (s.core->forked()) {
    // The threads did not come along: there is nobody to join, and their locks may be held for ever.
    new std::shared_ptr<state>(std::move(state_));
    return;
  }
  bool done = s.done.load() != 0;
  for (unsigned tries = 0; !done; ++tries) {
    try {
      const shutdown_report report = s.shut_down(s.default_limit, "runtime destroyed");
      if (!report.clean()) s.lines->warning(to_string(report));
      done = true;
    } catch (const std::bad_alloc&) {
      // Once more; then without a report, rather than ending the process.
      if (tries < 2) continue;
      s.core->close();
      s.stop_pools(deadline_after(s.environment->time().now(), at_once));
      done = true;
    }
  }
  if (!exec::may_wait_here()) {
    // Destroyed by one of its own handlers: no thread may wait here, so the workers end by themselves.
    s.core->close();
    const auto core_cause = s.core->make_cause(cancel_kind::shutdown, "runtime", "destroyed by one of its own handlers");
    try {
      for (const auto& each : s.core->subscriptions()) {
        each->stop();
        each->request_stop(core_cause);
        each->try_reap();
      }
    } catch (...) {
    }
    s.stop_pools(deadline_after(s.environment->time().now(), at_once));
  }
}

event_bus& runtime::bus() noexcept { return *state_->bus; }

scheduler_ptr runtime::pool(std::string_view name) const {
  const auto found = state_->pools.find(name);
  if (found != state_->pools.end()) return found->second;
  std::string known;
  for (const auto& [each, pool] : state_->pools) known += (known.empty() ? "" : ", ") + each;
  throw std::system_error(make_error_code(errc::not_found),
                          "pool \"" + std::string(name) + "\": this runtime has " + known +
                              "; add it with runtime_options::pool");
}

const clock& runtime::time() const noexcept { return state_->environment->time(); }

shutdown_report runtime::shutdown_within(std::chrono::nanoseconds limit, std::string_view reason) {
  const std::shared_ptr<state> keep = state_;
  return keep->shut_down(limit, reason);
}

shutdown_report runtime::state::look(std::string_view reason, steady_time began) {
  shutdown_report moment;
  moment.reason = reason;
  for (const auto& each : core->subscriptions()) moment.subscriptions.push_back({each->name, each->event(), each->ledger()});
  moment.elapsed = environment->time().now() - began;
  return moment;
}

shutdown_report runtime::state::end_everything(steady_time began, std::chrono::nanoseconds limit, std::string_view reason) {
  const clock& time = environment->time();
  // One budget: what the drain leaves of it, at least a tenth, is for calls that end when they are asked to.
  const steady_time deadline = deadline_after(began, limit);
  const steady_time drain_until =
      deadline == no_deadline ? no_deadline : deadline_after(began, (deadline - began) / 10 * 9);
  core->begin_drain(drain_until);
  // Kept: a shutdown that gave up for want of memory has ended some of them already, and their accounts are due.
  if (ending.empty()) ending = core->subscriptions();
  const std::vector<ref_ptr<detail::subscription_core>>& all = ending;
  shutdown_report made;
  made.reason = reason;
  std::vector<std::uint64_t> running_before;  // what runs now and still runs at the end has run all the time between
  for (const auto& each : all) running_before.push_back(each->running_sequence());
  made.drained = core->wait_idle(drain_until);

  core->close();
  if (made.drained) {
    // A publish that was admitted before the intake closed may have been seated only now: it is handled, not discarded.
    for (const auto& each : all) {
      each->begin_drain();
      each->try_reap();
    }
    for (const auto& each : all)
      if (!each->wait_ended(deadline)) made.drained = false;
  }
  const auto why = core->make_cause(cancel_kind::shutdown, "runtime", "the drain ended at its deadline");
  for (const auto& each : all) {
    each->stop();
    if (!made.drained) each->request_stop(why);
    each->try_reap();
  }
  for (const auto& each : all)
    if (!each->wait_ended(deadline)) each->abandoned.store(true);
  const steady_time now = time.now();
  for (std::size_t i = 0; i < all.size(); ++i) {
    detail::subscription_core& each = *all[i];
    if (each.ended()) continue;
    const std::uint64_t running = each.running_sequence();
    const auto at_least = running == running_before[i] ? now - began : steady_time::duration::zero();
    made.stuck.push_back({each.name, each.event(), running, at_least, each.file, each.line});
  }
  const steady_time soon = deadline_after(time.now(), at_once);
  made.abandoned_workers = stop_pools(deadline > soon ? deadline : soon);
  for (const auto& each : all) made.subscriptions.push_back({each->name, each->event(), each->ledger()});
  made.elapsed = time.now() - began;
  return made;
}

shutdown_report runtime::state::shut_down(std::chrono::nanoseconds limit, std::string_view reason) {
  const clock& time = environment->time();
  const steady_time began = time.now();
  if (core->forked()) {  // the locks may be held for ever by threads that did not come along
    shutdown_report nothing;
    nothing.reason = "forked: this process has none of the runtime's threads";
    return nothing;
  }
  core->close_intake();
  if (!exec::may_wait_here() && done.load() == 0) return look(reason, began);
  for (;;) {
    const std::uint32_t seen = changes.load();
    {
      lock_guard lock(m);
      if (done.load() != 0) return report;
      if (!std::exchange(begun, true)) break;  // by us, then
    }
    sync::park(changes, seen, no_deadline);
  }

  shutdown_report made;
  try {
    made = end_everything(began, limit, reason);
  } catch (...) {  // no memory for the lists: what has been done stays done, and it can be asked again
    {
      lock_guard lock(m);
      begun = false;
    }
    changes.fetch_add(1);
    sync::unpark_all(&changes);
    throw;
  }
  {
    lock_guard lock(m);
    report = std::move(made);
    ending.clear();
    done.store(1);
  }
  changes.fetch_add(1);
  sync::unpark_all(&changes);
  lock_guard lock(m);
  return report;
}

}  // namespace penstock
