// What the runtime has to say, as records: fixed words, and everything that varies in fields.
// Floor 7, room runtime.
#include "runtime/log.hpp"

#include <string>

namespace penstock {
namespace {

constexpr const char* bus = "penstock.bus";
constexpr const char* tasks = "penstock.task";
constexpr const char* pools = "penstock.pool";
constexpr const char* whole = "penstock.runtime";
constexpr const char* no_memory = "there was no memory for a log record";

// Last: what was thrown may be long, and a line is cut at its end.
void add(log_record& line, const exception_record& thrown) {
  line.with("exception", thrown.type_name);
  if (!thrown.what.empty()) line.with("what", thrown.what);
  for (const std::string& inner : thrown.nested) line.with("nested", inner);
}

void add(log_record& line, const failure& record) {
  if (record.task.empty())
    line.with("subscription", record.subscription).with("event", record.event).with("sequence", record.sequence);
  else
    line.with("task", record.task);
  line.with("attempt", record.attempt);
  if (!record.file.empty()) line.with("file", record.file).with("line", record.line);
  add(line, record.exception);
}

const char* key_of(log_source kind) noexcept {
  switch (kind) {
    case log_source::subscription: return "subscription";
    case log_source::task: return "task";
    case log_source::pool: return "pool";
    case log_source::hook: return "hook_told_of";
    case log_source::others: break;
  }
  return "others";
}

const char* component_of(log_source kind) noexcept {
  switch (kind) {
    case log_source::subscription: return bus;
    case log_source::task: return tasks;
    case log_source::pool: return pools;
    case log_source::hook:
    case log_source::others: break;
  }
  return whole;
}

/// Of many things of one kind that a shutdown left, the first ones are told and the rest is a number.
class first_few {
 public:
  bool takes_one() noexcept { return ++seen_ <= most; }
  void tell_rest(log& to, log_level level, const char* of_what) const {
    if (seen_ <= most) return;
    const std::uint64_t rest = seen_ - most;
    to.write(log_record(level, whole, "… and " + std::to_string(rest) + of_what).with("left_out", rest));
  }

 private:
  static constexpr std::uint64_t most = 10;
  std::uint64_t seen_ = 0;
};

}  // namespace

bool log::says(log_source kind, std::string_view name) noexcept {
  const steady_time now = time_.now();
  for (;;) {
    std::optional<log_limiter::left_out> rest;
    {
      lock_guard lock(m_);
      rest = limiter_.due(now);
      if (!rest) return limiter_.ask(kind, name, now) == log_limiter::verdict::say;
    }
    tell(*rest);
  }
}

void log::tell_due(steady_time now) noexcept {
  for (;;) {
    std::optional<log_limiter::left_out> rest;
    {
      lock_guard lock(m_);
      rest = limiter_.due(now);
    }
    if (!rest) return;
    tell(*rest);
  }
}

void log::tell(const log_limiter::left_out& rest) noexcept {
  try {
    log_record line(log_level::error, component_of(rest.kind), "… and " + std::to_string(rest.count) + " more");
    write(line.with(key_of(rest.kind), rest.name).with("left_out", rest.count));
  } catch (...) {
    lose(no_memory);
  }
}

void log::failed(const failure& record) noexcept {
  if (log_level::error < least_) return;
  const bool handler = record.task.empty();
  if (!says(handler ? log_source::subscription : log_source::task, handler ? record.subscription : record.task)) return;
  try {
    log_record line(log_level::error, handler ? bus : tasks, handler ? "a handler failed" : "a task failed");
    add(line, record);
    write(line);
  } catch (...) {
    lose(no_memory);
  }
}

void log::work_failed(const failure& record) noexcept {
  if (log_level::error < least_ || !says(log_source::pool, record.subscription)) return;
  try {
    log_record line(log_level::error, pools, record.event.empty() ? "a worker failed" : "posted work failed");
    line.with("pool", record.subscription);
    add(line, record.exception);
    write(line);
  } catch (...) {
    lose(no_memory);
  }
}

void log::escalated(const failure& record) noexcept {
  try {
    log_record line(log_level::error, whole, "shutting down because of a failure");
    add(line, record);
    write(line);
  } catch (...) {
    lose(no_memory);
  }
}

void log::hook_threw(const detail::hook_problem& problem) noexcept {
  const std::string_view about = !problem.subscription.empty() ? problem.subscription
                                 : !problem.task.empty()       ? problem.task
                                 : !problem.pool.empty()       ? problem.pool
                                                               : problem.event;
  if (log_level::error < least_ || !says(log_source::hook, about)) return;
  try {
    log_record line(log_level::error, whole, "a hook threw");
    line.with("hook", problem.hook);
    if (!problem.subscription.empty()) line.with("subscription", problem.subscription);
    if (!problem.task.empty()) line.with("task", problem.task);
    if (!problem.pool.empty()) line.with("pool", problem.pool);
    if (!problem.event.empty()) line.with("event", problem.event);
    if (problem.sequence != 0) line.with("sequence", problem.sequence);
    add(line, problem.thrown);
    write(line);
  } catch (...) {
    lose(no_memory);
  }
}

void log::stuck(const watchdog_report& report) noexcept {
  try {
    write(report.record());
  } catch (...) {
    lose(no_memory);
  }
}

void log::not_clean(const shutdown_report& report) noexcept {
  constexpr log_level level = log_level::warning;
  try {
    write(log_record(level, whole, report.drained ? "the shutdown left something" : "the shutdown was not drained")
              .with("reason", report.reason)
              .with("took", report.elapsed)
              .with("forced", report.forced)
              .with("undelivered", report.undelivered())
              .with("abandoned_workers", report.abandoned_workers));
    if (!report.loop.empty()) {
      std::string ring;
      for (const std::string& each : report.loop) ring += each + " feeds ";
      write(log_record(level, whole, "a loop was cut").with("loop", ring + report.loop.front()));
    }
    first_few stuck;
    for (const stuck_call& each : report.stuck)
      if (stuck.takes_one())
        write(log_record(level, whole, "stuck call")
                  .with("subscription", each.subscription)
                  .with("event", each.event)
                  .with("sequence", each.sequence)
                  .with("at_least", each.at_least)
                  .with("file", each.file)
                  .with("line", each.line));
    stuck.tell_rest(*this, level, " more stuck calls");
    first_few tasks_left;
    for (const task_info& each : report.tasks.tasks)
      if ((each.status == task_status::running || each.status == task_status::closed) && tasks_left.takes_one())
        write(log_record(level, whole,
                         each.status == task_status::closed ? "task cut off"
                         : each.suspended                   ? "task abandoned where it waits"
                                                            : "task left running")
                  .with("task", each.name)
                  .with("age", each.age)
                  .with("file", each.file)
                  .with("line", each.line));
    tasks_left.tell_rest(*this, level, " more tasks");
    first_few discarded;
    for (const subscription_report& each : report.subscriptions)
      if (each.ledger.discarded + each.ledger.queued > 0 && discarded.takes_one())
        write(log_record(level, whole, "undelivered events")
                  .with("subscription", each.name)
                  .with("event", each.event)
                  .with("events", each.ledger.discarded + each.ledger.queued));
    discarded.tell_rest(*this, level, " more subscriptions with undelivered events");
  } catch (...) {
    lose(no_memory);
  }
}

}  // namespace penstock
