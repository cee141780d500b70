// The watchdog's options, and its reports as records.
// Floor 7, room runtime.
#include "runtime/watchdog_options.hpp"

#include <algorithm>
#include <utility>

namespace penstock {

watchdog_options::watchdog_options() : fields_(std::make_unique<fields>()) {}
watchdog_options::watchdog_options(watchdog_options&&) noexcept = default;
watchdog_options& watchdog_options::operator=(watchdog_options&&) noexcept = default;
watchdog_options::~watchdog_options() = default;

watchdog_options::fields& watchdog_options::made() {
  if (!fields_) fields_ = std::make_unique<fields>();  // set again after it was moved from
  return *fields_;
}

namespace {
constexpr std::chrono::nanoseconds shortest = std::chrono::milliseconds(1);
}

watchdog_options& watchdog_options::stuck_within(std::chrono::nanoseconds limit) {
  made().stuck_after = std::max(limit, shortest);
  return *this;
}
watchdog_options& watchdog_options::look_every(std::chrono::nanoseconds period) {
  made().every = std::max(period, shortest);
  return *this;
}
watchdog_options& watchdog_options::stacks(bool yes) & {
  made().stacks = yes;
  return *this;
}
watchdog_options&& watchdog_options::stacks(bool yes) && { return std::move(stacks(yes)); }
watchdog_options& watchdog_options::stack_signal(int number) & {
  made().signal = number;
  made().stacks = true;
  return *this;
}
watchdog_options&& watchdog_options::stack_signal(int number) && { return std::move(stack_signal(number)); }
watchdog_options& watchdog_options::on_report(unique_function<void(const watchdog_report&)> hook) & {
  made().on_report = std::move(hook);
  return *this;
}
watchdog_options&& watchdog_options::on_report(unique_function<void(const watchdog_report&)> hook) && {
  return std::move(on_report(std::move(hook)));
}
watchdog_options& watchdog_options::enabled(bool yes) & {
  made().enabled = yes;
  return *this;
}
watchdog_options&& watchdog_options::enabled(bool yes) && { return std::move(enabled(yes)); }

// --- reports -----------------------------------------------------------------------------------------------------------

watchdog_report::watchdog_report() = default;

const char* to_string(watchdog_report::what kind) noexcept {
  switch (kind) {
    case watchdog_report::what::stuck_call: return "stuck call";
    case watchdog_report::what::stuck_task: return "stuck task";
    case watchdog_report::what::starved_pool: return "starved pool";
    case watchdog_report::what::wait_chain: return "wait chain";
    case watchdog_report::what::recovered: return "recovered";
  }
  return "unknown";
}

namespace {

const char* words_for(watchdog_report::what of, bool over) noexcept {
  switch (of) {
    case watchdog_report::what::stuck_call: return over ? "a stuck call has gone on" : "a call is stuck";
    case watchdog_report::what::stuck_task: return over ? "a stuck task has gone on" : "a task is stuck";
    case watchdog_report::what::starved_pool: return over ? "a starved pool has a free worker" : "a pool has no free worker";
    case watchdog_report::what::wait_chain: return over ? "a chain of waits has moved" : "a chain of waits stands still";
    case watchdog_report::what::recovered: break;
  }
  return "recovered";
}

}  // namespace

// Last the stack: a line is cut at its end.
log_record watchdog_report::record() const {
  const bool over = kind == what::recovered;
  log_record made(over ? log_level::info : log_level::warning, "penstock.watchdog", words_for(of, over));
  const auto name = [&](const char* key, const std::string& value) {
    if (!value.empty()) made.with(key, value);
  };
  name("subscription", subscription);
  name("task", task);
  name("event", event);
  if (sequence != 0) made.with("sequence", sequence);
  for (std::size_t at = 1; at < chain.size(); ++at) made.with("waits_for", chain[at]);
  name("pool", pool);
  name("thread", thread);
  made.with("at_least", elapsed);
  if (suspended) made.with("suspended", true);
  if (stop_requested) made.with("stop_requested", true);
  if (waiting != 0) made.with("waiting", waiting);
  name("file", file);
  if (!file.empty()) made.with("line", line);
  for (const std::string& frame : stack) made.with("in", frame);
  return made;
}

std::string to_string(const watchdog_report& report) { return to_string(report.record()); }

}  // namespace penstock
